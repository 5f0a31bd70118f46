"""When the best and the last state of a run are written."""

from lightning.pytorch import Trainer

from lightkeel import Checkpoint as LibraryCheckpoint


class Checkpoint(LibraryCheckpoint):
    """Write ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` in the folder of the run.

    ``--resume`` starts from ``last.ckpt``; ``evaluate`` and the others take ``best.ckpt``.
    """

    def after_step(self, trainer: Trainer) -> None:
        # Between two batches, when the metrics of the step are logged. Of several batches that are
        # accumulated for a step, after the last.
        every = self.every_n_steps
        if every and trainer.global_step // every > self.last_step // every:
            self.write_last(trainer)

    def after_validation(self, trainer: Trainer) -> None:
        # Now, since training goes on from here: so the file holds the weights that were validated.
        if self.is_validated:
            self.write_best(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        # When schedules have stepped too. A metric of training is complete only now.
        if not self.is_validated:
            self.write_best(trainer)
        self.write_last(trainer)
