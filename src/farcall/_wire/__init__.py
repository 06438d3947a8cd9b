"""Bytes to messages and back. No socket, no thread, no clock."""
