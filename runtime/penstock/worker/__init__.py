"""A worker process performs durable runs, and no run is ever performed by two processes at once."""

from penstock.worker.worker import TakenOver, Worker

__all__ = ["TakenOver", "Worker"]
