"""Pods of a Kubernetes cluster: ``manifests`` says what is deployed, ``pods`` what a pod's status means, both without
any connection; ``api`` speaks with the API server, ``deployment`` applies and looks, ``engine`` is the engine."""

from .engine import Kubernetes as Kubernetes
