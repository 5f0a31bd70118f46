"""Behaviour that Lightning's own callbacks do not have."""

from .checkpoint import Checkpoint as Checkpoint
from .confusion import Confusion as Confusion
from .early_stopping import EarlyStopping as EarlyStopping
from .exact_resume import ExactResume as ExactResume
from .graceful_stop import GracefulStop as GracefulStop
from .gradient_accumulation import GradientAccumulation as GradientAccumulation
from .gradient_clipping import GradientClipping as GradientClipping
from .gradient_norms import GradientNorms as GradientNorms
from .image_summaries import ImageSummaries as ImageSummaries
from .layer_check import LayerCheck as LayerCheck
from .lookahead import Lookahead as Lookahead
from .lr_monitor import LRMonitor as LRMonitor
from .monitor_check import MonitorCheck as MonitorCheck
from .nonfinite import Nonfinite as Nonfinite
from .plots import Plots as Plots
from .progress import Progress as Progress
from .throughput import Throughput as Throughput
