"""Behaviour that Lightning's own callbacks do not have."""

from src.callbacks.checkpoint import Checkpoint as Checkpoint
from src.callbacks.graceful_stop import GracefulStop as GracefulStop
from src.callbacks.gradient_accumulation import GradientAccumulation as GradientAccumulation
from src.callbacks.gradient_clipping import GradientClipping as GradientClipping
from src.callbacks.lr_monitor import LRMonitor as LRMonitor
from src.callbacks.monitor_check import MonitorCheck as MonitorCheck
from src.callbacks.progress import Progress as Progress
from src.callbacks.throughput import Throughput as Throughput
