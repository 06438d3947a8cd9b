"""placeholder"""


class EngineSuite:
    """placeholder"""
