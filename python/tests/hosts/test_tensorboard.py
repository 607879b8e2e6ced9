"""python/examples/noise.py: what TensorBoard then shows, from a plain loop, from Lightning and from transformers' Trainer."""

import importlib.util
from pathlib import Path

import pytest
import torch

import posneg
from hosts import need

need("tensorboard")
need("torch.utils.tensorboard")
spec = importlib.util.spec_from_file_location("noise", Path(__file__).parents[2] / "examples" / "noise.py")
noise = importlib.util.module_from_spec(spec)
spec.loader.exec_module(noise)


def shown(folder):
    """The curves in a folder, as {name: {step: value}}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_a_plain_loop(tmp_path, capsys):
    noise.main(["--logs", str(tmp_path), "--steps", "250", "--batch", "32"])
    curves = shown(tmp_path)
    assert all(list(curve) == [100, 200, 250] for curve in curves.values()) and len(curves) == 5
    scale, error = (curves[f"noise/{name}"][250] for name in ("scale in samples", "standard error"))
    assert scale == pytest.approx(32 * curves["noise/variance"][250] / curves["noise/signal"][250])
    assert f"noise scale {scale:.0f} ± {error:.0f} samples" in capsys.readouterr().out.splitlines()[-1]


def test_a_loop_without_a_reading(tmp_path, capsys):
    noise.main(["--logs", str(tmp_path), "--steps", "5"])
    assert list(shown(tmp_path)) == ["loss"] and capsys.readouterr().out.startswith("step 5: loss ")


def test_lightning(tmp_path):
    lightning = need("lightning.pytorch")
    from test_lightning import Module

    module = Module(posneg.AdaPNM, noise_every=2)
    logger = lightning.loggers.TensorBoardLogger(tmp_path)
    run = lightning.Trainer(
        accelerator="cpu", logger=logger, log_every_n_steps=2, max_steps=8, max_epochs=-1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=[noise.NoiseCallback(8)],
    )
    run.fit(module)
    last, curve = run.optimizers[0].noise, shown(logger.log_dir)["noise/scale in samples"]
    assert last.readings == 4 and len(curve) == 4
    assert list(curve.values())[-1] == pytest.approx(8 * last.scale)


def test_trainer(tmp_path):
    need("transformers")
    from test_trainer import model, ours, trainer

    writer = torch.utils.tensorboard.SummaryWriter(tmp_path / "logs")
    run = trainer(
        tmp_path, model(), noise.NoiseTrainerCallback(writer, 4), cls_and_kwargs=(posneg.AdaPNM, dict(lr=0.01, noise_every=2)), logging_steps=2
    )
    run.train()
    writer.close()
    last, curve = ours(run).noise, shown(tmp_path / "logs")["noise/scale in samples"]
    assert last.readings == 3 and list(curve) == [2, 4, 6] and curve[6] == pytest.approx(4 * last.scale)
