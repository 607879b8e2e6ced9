"""Lightning: automatic and manual optimization, its precisions, its clipping, its checkpoints and its averages."""

import warnings

import pytest
import torch

import posneg
from helpers import close, equal, values
from hosts import need

lightning = need("lightning.pytorch")
warnings.filterwarnings("ignore", module="lightning.*")

STEPS = 6


class Module(lightning.LightningModule):
    def __init__(self, cls=posneg.AdaPNM, **options):
        super().__init__()
        torch.manual_seed(2)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
        self.cls, self.options, self.norms = cls, dict(lr=0.01, **options), []

    def training_step(self, batch, index):
        """Its data go by the number of the batch, since a resumed run begins with the loader's first one."""
        data = torch.randn(8, 8, generator=torch.Generator().manual_seed(index)).to(self.layers[0].weight.dtype)
        return self.layers(data).square().mean()

    def configure_optimizers(self):
        optimizer = self.cls(self.named_parameters() if self.cls is posneg.AdaPNM else self.parameters(), **self.options)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=2 * STEPS)
        return dict(optimizer=optimizer, lr_scheduler=dict(scheduler=schedule, interval="step"))

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.norms.append(float(torch.nn.utils.clip_grad_norm_(self.parameters(), 1e9)))

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(2 * STEPS)))


def trainer(folder, **how):
    how = {**dict(max_steps=STEPS, max_epochs=-1, enable_checkpointing=False), **how}
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **how
    )


def fit(folder, module, resume=None, **how):
    run = trainer(folder, **how)
    run.fit(module, ckpt_path=resume)
    return run


CLIPS = {
    "": dict(),
    "norm": dict(gradient_clip_val=0.05),
    "value": dict(gradient_clip_val=0.01, gradient_clip_algorithm="value"),
}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS.keys())
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_as_with_torch(tmp_path, precision, accumulate, clip):
    modules = [Module(cls) for cls in (posneg.AdamW, torch.optim.AdamW)]
    for module in modules:
        fit(tmp_path, module, precision=precision, accumulate_grad_batches=accumulate, **clip)
        assert len(module.norms) == STEPS
    close(*(m.parameters() for m in modules), steps=100)
    close(*([torch.tensor(n) for n in m.norms] for m in modules), steps=100)
    if "norm" in clip:
        assert max(modules[0].norms) < 0.0501


@pytest.mark.parametrize("how", [dict(), dict(fused=True)], ids=["", "fused"])
def test_a_scaler(tmp_path, how):
    module, scaler = Module(**how), torch.amp.GradScaler("cpu", init_scale=16.0)
    plugin = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler)
    if how:
        with pytest.raises(RuntimeError, match="clipping"):  # before, as with torch's fused optimizers
            fit(tmp_path, module, plugins=[plugin], gradient_clip_val=0.05)
        module, plugin = Module(**how), lightning.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=16.0))
        fit(tmp_path, module, plugins=[plugin])
    else:
        fit(tmp_path, module, plugins=[plugin], gradient_clip_val=0.05)
        assert len(module.norms) == STEPS and all(0.049 < n < 0.0501 for n in module.norms)
    optimizer = module.trainer.optimizers[0]
    assert {s["step"].item() for s in optimizer.state.values()} == {STEPS}
    assert not torch.equal(module.layers[0].weight, Module().layers[0].weight)


KINDS = {
    "float32": dict(),
    "bfloat16": dict(precision="bf16-true"),
    "masters": dict(precision="bf16-true", master_weights=True),
    "mxfp8": dict(state_dtype="mxfp8"),
    "float16": dict(precision="16-true"),
}


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("at", [2, 3], ids=["even", "odd"])
def test_resumed(tmp_path, how, at):
    how = dict(how)
    precision = how.pop("precision", "32-true")
    whole, again = Module(**how), Module(**how)
    how = dict(precision=precision, accumulate_grad_batches=2)
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=at, save_top_k=-1, filename="{step}")
    first = fit(tmp_path, whole, callbacks=[saver], enable_checkpointing=True, **how)
    then = fit(tmp_path, again, resume=tmp_path / f"step={at}.ckpt", **how)
    assert then.global_step == STEPS
    equal(whole.parameters(), again.parameters())
    equal(*(values(run.optimizers[0]) for run in (first, then)))
    assert first.optimizers[0].param_groups[0]["betas"] == then.optimizers[0].param_groups[0]["betas"]


def test_its_checkpoint_in_a_plain_loop(tmp_path):
    """A file of Lightning's is torch's: a loop without it goes on, in ours and in torch's class."""
    module = Module(posneg.AdamW)
    run = fit(tmp_path, module, max_steps=3)
    run.save_checkpoint(tmp_path / "run.ckpt")
    ends = []
    for cls in (posneg.AdamW, torch.optim.AdamW):
        loaded = torch.load(tmp_path / "run.ckpt", weights_only=True)
        again = Module(cls)
        again.load_state_dict(loaded["state_dict"])
        optimizer = again.configure_optimizers()["optimizer"]
        optimizer.load_state_dict(loaded["optimizer_states"][0])
        for index in range(3, 9):
            optimizer.zero_grad()
            again.training_step(None, index).backward()
            optimizer.step()
        ends.append(again)
    close(*(m.parameters() for m in ends), steps=100)


class Manual(Module):
    """Two optimizers, each every second step; the one of the second layer accumulates, and clips."""

    automatic_optimization = False

    def __init__(self, cls):
        super().__init__(cls)
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [self.cls(self.layers[0].parameters(), lr=0.01), self.cls(self.layers[2].parameters(), lr=0.02)]

    def training_step(self, batch, index):
        optimizer = self.optimizers()[index % 2]
        with optimizer.toggle_model():
            self.manual_backward(super().training_step(batch, index))
        if index % 2 and index % 4 != 3:
            return
        self.clip_gradients(optimizer, 0.05, "norm")
        optimizer.step()
        optimizer.zero_grad()


def test_manual(tmp_path):
    modules = [Manual(cls) for cls in (posneg.AdamW, torch.optim.AdamW)]
    for module in modules:
        fit(tmp_path, module, max_steps=-1, max_epochs=2)
    close(*(m.parameters() for m in modules), steps=100)


def test_a_closure_that_runs_itself(tmp_path):
    class Closures(Manual):
        def training_step(self, batch, index):
            optimizer = self.optimizers()[0]

            def closure():
                loss = Module.training_step(self, batch, index)
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

    modules = [Closures(cls) for cls in (posneg.AdamW, torch.optim.AdamW)]
    for module in modules:
        fit(tmp_path, module, max_steps=-1, max_epochs=1)
    close(*(m.parameters() for m in modules), steps=100)


def test_the_step_clips(tmp_path):
    """By itself instead of Lightning, which then has nothing to clip; the norm is read, and the bound set, through Lightning's wrapper."""
    norms = []

    class Clips(Module):
        def on_before_zero_grad(self, optimizer):
            if self.optimizers().grad_norm is not None:
                norms.append(optimizer.grad_norm)
                assert self.optimizers().grad_norm == optimizer.grad_norm and not self.optimizers().skipped

        def on_train_start(self):
            self.optimizers().clip_norm = 0.05

    modules = [Clips(), Module()]
    fit(tmp_path, modules[0])
    fit(tmp_path, modules[1], gradient_clip_val=0.05)
    close(*(m.parameters() for m in modules), steps=100)
    assert len(norms) == STEPS - 1 and max(norms) > 0.05  # before the clipping; the last is not asked for


def averages():
    found = dict(SWA=lambda: lightning.callbacks.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1, annealing_epochs=2))
    if hasattr(lightning.callbacks, "EMAWeightAveraging"):
        found["EMA"] = lambda: lightning.callbacks.EMAWeightAveraging(decay=0.9)
    return pytest.mark.parametrize("average", found.values(), ids=found.keys())


@averages()
def test_averages(tmp_path, average):
    modules = [Module(cls) for cls in (posneg.AdamW, torch.optim.AdamW)]
    for module in modules:
        module.configure_optimizers = lambda m=module: m.cls(m.parameters(), lr=0.01)
        fit(tmp_path, module, max_steps=-1, max_epochs=4, limit_train_batches=3, callbacks=[average()])
    close(*(m.parameters() for m in modules), steps=100)


OFFLOAD = dict(cls=posneg.offload.Offload, optimizer_class=posneg.AdaPNM)


@pytest.mark.parametrize("clip", [dict(), dict(clip_norm=0.05)], ids=["", "clip_norm"])
def test_offload(tmp_path, clip):
    """posneg.offload, with the CPU for the device: the bits of its class."""
    modules = [Module(**clip), Module(**OFFLOAD, **clip)]
    runs = [fit(tmp_path, module, accumulate_grad_batches=2) for module in modules]
    equal(*(m.parameters() for m in modules))
    equal(*(values(run.optimizers[0]) for run in runs))


@pytest.mark.parametrize("how", [dict(), OFFLOAD], ids=["", "offload"])
def test_files_for_go(tmp_path, how):
    """save_checkpoint and load_checkpoint take what self.optimizers() gives, which wraps ours, and mean ours."""

    class Saves(Module):
        def on_train_batch_end(self, *_):
            if self.global_step == 3:
                posneg.save_checkpoint(tmp_path / "run", self.optimizers(), names=self.named_parameters())

    class Loads(Module):
        def on_train_start(self):
            with pytest.raises(posneg.CheckpointError):
                posneg.load_checkpoint(__file__, self.optimizers(), names=self.named_parameters())
            posneg.load_checkpoint(tmp_path / "run", self.optimizers(), names=self.named_parameters())

    fit(tmp_path, Saves(**how))
    module = Loads(**how)
    optimizer = fit(tmp_path, module, max_steps=1).optimizers[0]
    assert {s["step"].item() for s in optimizer.state.values()} == {4}


def test_a_wrapped_optimizer_that_was_loaded_in_part(tmp_path, monkeypatch):
    """It refuses to step, also when it was loaded through Lightning's wrapper."""

    class Broken(Module):
        def on_train_start(self):
            wrapper = self.optimizers()
            posneg.save_checkpoint(tmp_path / "run", wrapper)

            def fails(*_):
                raise OSError("the disk is gone")

            with monkeypatch.context() as patch:
                patch.setattr(posneg.checkpoints._Load, "run", fails)
                with pytest.raises(ValueError, match="in part"):
                    posneg.load_checkpoint(tmp_path / "run", wrapper)

    with pytest.raises(RuntimeError, match="loaded only in part"):
        fit(tmp_path, Broken())
