"""LightningModules as people write them who follow Lightning's documentation."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, LearningRateMonitor
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from src.models import LinearRegression, SimpleCNN
from src.models.supervised import SupervisedModule

from .data import points


def mlp(dropout=0.0):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


class Plain(LightningModule):
    """The usual module."""

    def __init__(self, lr: float = 0.1, dropout: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.net = mlp(dropout)

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


# --- optimization


class GAN(LightningModule):
    """After Lightning's GAN: manual optimization, two optimizers."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
        self.discriminator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, y_hat, y):
        return F.binary_cross_entropy_with_logits(y_hat, y)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        opt_g, opt_d = self.optimizers()
        z = torch.randn(len(x), 2).type_as(x)
        valid, fake = torch.ones(len(x), 1).type_as(x), torch.zeros(len(x), 1).type_as(x)

        self.toggle_optimizer(opt_g)
        g_loss = self.adversarial_loss(self.discriminator(self(z)), valid)
        self.log("g_loss", g_loss, prog_bar=True)
        self.manual_backward(g_loss)
        opt_g.step()
        opt_g.zero_grad()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        real_loss = self.adversarial_loss(self.discriminator(x), valid)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), fake)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        opt_d.step()
        opt_d.zero_grad()
        self.untoggle_optimizer(opt_d)

    def configure_optimizers(self):
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=0.01, betas=(0.5, 0.9))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=0.02, betas=(0.6, 0.9))
        return [opt_g, opt_d], []


class GANWithValidation(GAN):
    def validation_step(self, batch, batch_idx):
        z = torch.randn(len(batch[0]), 2).type_as(batch[0])
        self.log("val_loss", F.softplus(-self.discriminator(self(z))).mean())


class ManualAccumulation(Plain):
    """Manual optimization of one optimizer, every other batch, with a schedule."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt, sch = self.optimizers(), self.lr_schedulers()
        loss = self.loss(batch) / 2
        self.manual_backward(loss)
        self.log("train_loss", loss)
        if (batch_idx + 1) % 2 == 0 or self.trainer.is_last_batch:
            self.clip_gradients(opt, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
            opt.step()
            opt.zero_grad()
        if self.trainer.is_last_batch:
            sch.step()

    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=0.1)
        return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)]


class GANWithSchedules(GAN):
    """Its learning rates fall by epoch, at its own call."""

    def on_train_epoch_end(self):
        for schedule in self.lr_schedulers():
            schedule.step()

    def configure_optimizers(self):
        optimizers, _ = super().configure_optimizers()
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in optimizers]


class HalfOptimized(Plain):
    """Two optimizers, stepped in turn."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()[batch_idx % 2]
        opt.zero_grad()
        self.manual_backward(self.loss(batch))
        opt.step()

    def configure_optimizers(self):
        return (
            torch.optim.SGD(self.net[0].parameters(), lr=0.1, momentum=0.9),
            torch.optim.Adam(self.net[3].parameters(), lr=0.01),
        )


class NoOptimizer(Plain):
    """Learns by counting: no gradient, no optimizer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("centres", torch.zeros(3, 4))
        self.register_buffer("counts", torch.ones(3, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.centres.index_add_(0, y, x)
        self.counts.index_add_(0, y, torch.ones(len(y), 1))

    def forward(self, x):
        return -torch.cdist(x, self.centres / self.counts)

    def configure_optimizers(self):
        return None


class SignStep(torch.optim.Optimizer):
    """An optimizer that calls its learning rate otherwise."""

    def __init__(self, params, scale=0.01):
        super().__init__(params, {"scale": scale})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["scale"] * p.grad.sign()
        return loss


class WithoutLR(Plain):
    def configure_optimizers(self):
        return SignStep(self.parameters())


class WithRprop(Plain):
    def configure_optimizers(self):
        return torch.optim.Rprop(self.parameters())


class WithLBFGS(Plain):
    """Its closure is called several times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class OptimizerInList(Plain):
    def configure_optimizers(self):
        return [super().configure_optimizers()]


class OptimizerInDict(Plain):
    def configure_optimizers(self):
        return {"optimizer": super().configure_optimizers()}


class ScheduleByStep(Plain):
    def configure_optimizers(self):
        opt = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            opt, max_lr=0.1, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ScheduleByEpoch(Plain):
    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [opt], [torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)]


class Plateau(Plain):
    def configure_optimizers(self):
        opt = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0, threshold=1.0)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class WarmUp(Plain):
    """The learning rate is warmed up by hand, in the hook that Lightning's documentation shows."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer.step(closure=optimizer_closure)
        if self.trainer.global_step < 6:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (self.trainer.global_step + 1) / 6


class OwnClipping(Plain):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, 0.1, "norm")

    def on_before_optimizer_step(self, optimizer):
        self.log("my_norm", sum(p.grad.norm() for p in self.parameters() if p.grad is not None))


# --- networks


class AutoEncoder(LightningModule):
    """Lightning's first example."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x_hat = self.decoder(self.encoder(x.view(x.size(0), -1)))
        loss = F.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class VAE(AutoEncoder):
    """Draws random numbers in its steps."""

    def step(self, batch, name):
        x, _ = batch
        mean = self.encoder(x)
        z = mean + torch.randn_like(mean)
        loss = F.mse_loss(self.decoder(z), x) + 0.01 * mean.pow(2).mean()
        self.log_dict({f"{name}/elbo": -loss, f"{name}/loss": loss}, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch, batch_idx):
        return self.step(batch, "train")

    def validation_step(self, batch, batch_idx):
        self.step(batch, "val")


class Transformer(LightningModule):
    """Predicts the next token id."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(11, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.encoder(self.embedding(tokens), mask))

    def loss(self, batch):
        (tokens,) = batch
        return F.cross_entropy(self(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("val/loss", loss)
        self.log("val/perplexity", loss.exp())

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class PackedRNN(Plain):
    """Its batches are packed sequences."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = nn.GRU(1, 4, batch_first=True)

    def forward(self, packed):
        _, hidden = self.rnn(packed)
        return self.net(hidden[0])


class StatefulRNN(Plain):
    """Carries its hidden state from batch to batch, as truncated backpropagation does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = nn.LSTMCell(4, 4)
        self.register_buffer("hidden", torch.zeros(2, 8, 4))

    def on_train_epoch_start(self):
        self.hidden.zero_()

    def training_step(self, batch, batch_idx):
        x, y = batch
        h, c = self.rnn(x, tuple(self.hidden.clone()))
        self.hidden.copy_(torch.stack([h, c]).detach())
        return F.cross_entropy(self.net(h), y)


class InConfigureModel(Plain):
    def __init__(self, width: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.net = None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(nn.Linear(4, self.width), nn.Linear(self.width, 3))


class InSetup(Plain):
    """The size of the network is known when there is data."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = None

    def setup(self, stage):
        if self.net is None:
            num_features = self.trainer.datamodule.test_set[0][0].shape[0]
            self.net = nn.Linear(num_features, 3)


class Lazy(Plain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))

    def setup(self, stage):
        self.net(torch.zeros(2, 4))


class LazyAtFirstBatch(Plain):
    """Nothing but the first batch, or a checkpoint, tells the sizes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.LazyLinear(3)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class PartlySaved(Plain):
    """A large frozen part is left out of checkpoints, as Lightning's documentation shows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.strict_loading = False
        generator = torch.Generator().manual_seed(7)
        self.backbone = nn.Linear(4, 4)
        self.backbone.weight.data = torch.randn(4, 4, generator=generator)
        nn.init.zeros_(self.backbone.bias)
        self.backbone.requires_grad_(False)

    def forward(self, x):
        return self.net(self.backbone(x))

    def state_dict(self, *args, **kwargs):
        whole = super().state_dict(*args, **kwargs)
        return {name: value for name, value in whole.items() if "backbone" not in name}


class FrozenBackbone(Plain):
    """A frozen part that stays in evaluation mode."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self):
        self.backbone.eval()

    def forward(self, x):
        return self.net(self.backbone(x))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Unfreeze(BaseFinetuning):
    """Lightning's transfer learning: the backbone is trained from an epoch on."""

    def __init__(self, at_epoch: int = 1):
        super().__init__()
        self.at_epoch = at_epoch

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.at_epoch:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.01)


class BatchNorm(Plain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Momentum(Plain):
    """A teacher in buffers follows the student, as in self-supervised learning."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("teacher", torch.zeros(3, 8))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.teacher.lerp_(self.net[3].weight.detach(), 0.1)


class GivenNetwork(LightningModule):
    """A network comes as an argument, and is left out of the hyperparameters."""

    def __init__(self, backbone: nn.Module, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = backbone

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.backbone(x), y)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_acc", (self.backbone(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


# --- batches


class DictSteps(Plain):
    def loss(self, batch):
        return F.cross_entropy(self(batch["inputs"]), batch["labels"])


class TupleOfDictSteps(Plain):
    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self(torch.cat([x["left"], x["right"]], 1)), y["y"])


class ObjectSteps(Plain):
    """Batches are objects with x and y; ``self.log`` is told their size."""

    def loss(self, batch):
        return F.cross_entropy(self(batch.x), batch.y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch.y))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=len(batch.y))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), batch_size=len(batch.y))


class TripleSteps(Plain):
    """Batches are three things, the first of which is no input."""

    def loss(self, batch):
        _, x, y = batch
        return F.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=len(batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch), batch_size=len(batch[1]))


class CombinedSteps(Plain):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch["labelled"])
        scores = self(batch["unlabelled"][0]).softmax(1)
        loss = loss - 0.01 * (scores * scores.clamp(min=1e-6).log()).sum(1).mean()
        self.log("train_loss", loss, batch_size=8)
        return loss


class SeveralLoaders(Plain):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test_loss", self.loss(batch))
        return self(batch[0])


class OwnLoaders(Plain):
    """Brings its data with it."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(*points(36)), 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(*points(12, 1)), 8)

    def test_dataloader(self):
        return DataLoader(TensorDataset(*points(12, 2)), 8)


# --- steps and logging


class LossOfOne(Plain):
    def loss(self, batch):
        return super().loss(batch).view(1)


class ReturnsDict(Plain):
    """What a step returns is given to a hook, with outputs kept over the epoch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kept = []

    def training_step(self, batch, batch_idx):
        return {"loss": self.loss(batch), "size": len(batch[0])}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.log("train_loss", outputs["loss"])

    def validation_step(self, batch, batch_idx):
        self.kept.append(self.loss(batch))

    def on_validation_epoch_end(self):
        self.log("val_loss", torch.stack(self.kept).mean())
        self.kept.clear()


class ReturnsNone(Plain):
    """Leaves batches out."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


class KeepsOutputs(Plain):
    """A list of its own over an epoch, as Lightning's guide to version 2 shows it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.training_step_outputs = []

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.training_step_outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.log("training_epoch_mean", torch.stack(self.training_step_outputs).mean())
        self.training_step_outputs.clear()


class TakesIterator(Plain):
    """Fetches its batches itself."""

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch[0]))
        return loss


class SkipsRest(Plain):
    """Ends each epoch early."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


class OwnCallbacks(Plain):
    """Brings callbacks with it."""

    def configure_callbacks(self):
        stopping = EarlyStopping(monitor="val_loss", mode="min", patience=3)
        return [stopping, LearningRateMonitor(logging_interval="step")]


class WithMetrics(Plain):
    """Metrics of torchmetrics, logged as objects."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.train_acc = MulticlassAccuracy(3)
        metrics = MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)])
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")
        self.mean_loss = MeanMetric()

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        loss = F.cross_entropy(scores, y)
        self.train_acc(scores, y)
        self.mean_loss(loss)
        self.log("train_acc", self.train_acc, on_step=True, on_epoch=True)
        self.log("train_loss", self.mean_loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_metrics.update(self(x), y)
        self.log_dict(self.val_metrics)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.test_metrics.update(self(x), y)

    def on_test_epoch_end(self):
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()


class LogsBoth(Plain):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("worst", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("summed", loss, on_step=False, on_epoch=True, reduce_fx=torch.sum)
        return loss


class LogsStep(Plain):
    """A known idiom to have TensorBoard's x axis in epochs."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("step", float(self.current_epoch), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))
        self.log("step", float(self.current_epoch))


class LogsEpoch(Plain):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        self.log("epoch", float(self.current_epoch))
        return loss


class LogsValSteps(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), on_step=True, on_epoch=True)


class LogsMedia(Plain):
    """Images and text go to TensorBoard itself."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        board = self.logger.experiment
        board.add_image("weights", self.net[0].weight[None], self.global_step)
        board.add_text("note", "words", self.global_step)
        self.logger.log_metrics({"own": 1.0}, step=self.global_step)


class Convolutions(Plain):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        self.net(torch.zeros(1, 3, 8, 8))


# --- subclasses of this project's own


class Ours(SupervisedModule):
    """A subclass as the README shows it."""

    def __init__(self, **kwargs):
        super().__init__(mlp(), F.cross_entropy, {"acc": MulticlassAccuracy(3)}, **kwargs)
        self.save_hyperparameters()


class OurTrainingStep(Ours):
    """With a step of its own, as Lightning's documentation shows it."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss


class OurTrainingStepSameName(Ours):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


class OurLongerSteps(Ours):
    """Adds to each step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/mine", 2 * loss)
        return loss + 0.1 * self.network[0].weight.pow(2).sum()

    def validation_step(self, batch, batch_idx):
        scores = super().validation_step(batch, batch_idx)
        self.log("val/mine", scores.max(), reduce_fx="max")
        return scores


class OurValidationStep(Ours):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", F.cross_entropy(self(x), y))
        self.log("val/mine", float(batch_idx))

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test/mine", F.cross_entropy(self(x), y))


class OurOptimizers(Ours):
    def configure_optimizers(self):
        opt = torch.optim.RMSprop(self.parameters(), lr=0.01)
        return [opt], [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]


class OurEpochEnd(Ours):
    """With a hook of its own, and outputs kept for it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        self.log("train/median", torch.stack(self.losses).median())
        self.losses.clear()


class OurManualOptimization(Ours):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        opt.step()


class MyLinearRegression(LinearRegression):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.l1_loss(self(x), y.float())
        self.log("train/l1", loss)
        return loss


class MyCNN(SimpleCNN):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=0.1)
        self.log("train/smoothed", loss)
        return loss
