"""Sweeps: many runs of one experiment, over a space of options, with Optuna as the engine."""

# What is said of trials that do not count: of one that is retried; of a second one of a ticket.
STOPPED, REPEATED = "stopped", "repeated"
