"""A Lightning project: models, data, callbacks, and the commands that use them."""

from lightkeel import Project

PROJECT = Project(__name__, default_config="linear_regression")
