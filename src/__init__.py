"""A Lightning project: models, data, callbacks, and the commands that use them."""

from lightkeel.project import Project

PROJECT = Project(__name__, default_config="linear_regression")
