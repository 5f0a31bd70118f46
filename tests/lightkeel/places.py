"""Where the project under test is."""

from src import PROJECT

ROOT = PROJECT.root
CONFIGS = PROJECT.configs
PACKAGE = PROJECT.folder
DEFAULT_CONFIG = str(PROJECT.default_config)
