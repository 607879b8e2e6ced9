"""transformers' Trainer, on a GPT-2 of 4,000 parameters whose embedding is tied to its head."""

import os

import pytest
import torch

import posneg
from helpers import close, equal, values
from hosts import need

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = need("transformers")
need("accelerate")

STEPS = 6


def model(dtype=torch.float32):
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.1, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False
    )
    transformers.set_seed(4)
    return transformers.GPT2LMHeadModel(config).to(dtype)


def data():
    tokens = torch.randint(0, 32, (32, 16), generator=torch.Generator().manual_seed(5))
    return [dict(input_ids=t, labels=t) for t in tokens]


class Watcher(transformers.TrainerCallback):
    def __init__(self):
        self.norms, self.rates = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **_):
        self.norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))))
        self.rates.append(optimizer.param_groups[0]["lr"])


def trainer(folder, net, watcher=None, optimizers=(None, None), cls_and_kwargs=None, **how):
    how = {
        **dict(
            max_steps=STEPS, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
            learning_rate=0.01, weight_decay=0.1, warmup_steps=2, lr_scheduler_type="cosine", seed=3, logging_strategy="no",
            dataloader_pin_memory=False,
        ),
        **how,
    }
    return transformers.Trainer(
        model=net, args=transformers.TrainingArguments(output_dir=str(folder), **how), train_dataset=data(),
        optimizers=optimizers, optimizer_cls_and_kwargs=cls_and_kwargs, callbacks=[watcher] if watcher else None,
    )


def ours(run):
    return run.optimizer.optimizer  # in accelerate's


@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("classes", [(posneg.AdamW, torch.optim.AdamW), (posneg.SGD, torch.optim.SGD)], ids=["AdamW", "SGD"])
def test_as_with_torch(tmp_path, classes, accumulate, clip):
    ends = []
    for cls in classes:
        watcher = Watcher()
        run = trainer(
            tmp_path, model(), watcher, cls_and_kwargs=(cls, dict(lr=0.01)), max_grad_norm=clip, gradient_accumulation_steps=accumulate
        )
        run.train()
        ends.append((run.model, watcher))
        assert type(ours(run)) is cls
    (a, of_a), (b, of_b) = ends
    close(a.parameters(), b.parameters(), steps=200)
    assert of_a.rates == of_b.rates and len(of_a.rates) == STEPS
    assert (max(of_a.norms) <= 0.3001) == (clip > 0)


def test_the_step_clips(tmp_path):
    """By itself instead of Trainer, whose max_grad_norm is 0 then; resumed, too, without being told again."""
    ends = []
    for cls, options, bound in ((posneg.AdamW, dict(clip_norm=0.3), 0.0), (torch.optim.AdamW, {}, 0.3)):
        run = trainer(tmp_path, model(), cls_and_kwargs=(cls, dict(lr=0.01, **options)), max_grad_norm=bound, save_strategy="steps", save_steps=2)
        run.train()
        ends.append(run.model)
        if cls is posneg.AdamW:
            assert ours(run).grad_norm > 0.3
            again = trainer(tmp_path, model(), cls_and_kwargs=(cls, dict(lr=0.01)), max_grad_norm=0.0)
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
            assert ours(again).clip_norm == 0.3
            equal(run.model.parameters(), again.model.parameters())
    close(*(net.parameters() for net in ends), steps=200)


def test_both_ways_in(tmp_path):
    """optimizers= and optimizer_cls_and_kwargs=, with the groups that Trainer makes, give the same bits."""
    a = trainer(tmp_path, model(), cls_and_kwargs=(posneg.AdaPNM, dict(lr=0.01)))
    a.train()
    net = model()
    decayed = a.get_decay_parameter_names(net)
    groups = [
        dict(params=[(n, p) for n, p in net.named_parameters() if (n in decayed) == decays], weight_decay=0.1 if decays else 0.0)
        for decays in (True, False)
    ]
    optimizer = posneg.AdaPNM(groups, lr=0.01)
    b = trainer(tmp_path, net, optimizers=(optimizer, transformers.get_cosine_schedule_with_warmup(optimizer, 2, STEPS)))
    b.train()
    equal(a.model.parameters(), b.model.parameters())
    assert ours(b) is optimizer and len(ours(a).param_groups) == 2


KINDS = {
    "float32": dict(),
    "autocast": dict(bf16=True),
    "bfloat16": dict(dtype=torch.bfloat16),
    "masters": dict(dtype=torch.bfloat16, options=dict(master_weights=True)),
    "mxfp8": dict(dtype=torch.bfloat16, options=dict(state_dtype="mxfp8")),
}


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("at", [2, 3], ids=["even", "odd"])
def test_resumed(tmp_path, how, at):
    """By a trainer of its own, from the checkpoint's folder: the bits of the run that was not interrupted."""
    how = dict(how)
    dtype = how.pop("dtype", torch.float32)
    cls_and_kwargs = (posneg.AdaPNM, dict(lr=0.01, **how.pop("options", {})))
    how.update(save_strategy="steps", save_steps=at, cls_and_kwargs=cls_and_kwargs, gradient_accumulation_steps=2)
    whole = trainer(tmp_path, model(dtype), **how)
    whole.train()
    again = trainer(tmp_path / "again", model(dtype), **how)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    assert again.state.global_step == STEPS
    equal(whole.model.parameters(), again.model.parameters())
    equal(values(ours(whole)), values(ours(again)))
    assert not any(torch.equal(p, q) for p, q in zip(whole.model.parameters(), model(dtype).parameters()))


def test_its_files_load_into_the_plain_classes(tmp_path):
    """optimizer.pt, by torch's class and ours, and from torch's trainer into ours."""
    nets, states = [], []
    for first, then in ((posneg.AdamW, torch.optim.AdamW), (torch.optim.AdamW, posneg.AdamW)):
        folder = tmp_path / first.__module__
        how = dict(save_strategy="steps", save_steps=3)
        trainer(folder, model(), cls_and_kwargs=(first, dict(lr=0.01)), **how).train()
        again = trainer(tmp_path, model(), cls_and_kwargs=(then, dict(lr=0.01)), **how)
        again.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        nets.append(again.model)
        states.append(values(ours(again)))
        assert type(ours(again)) is then
    close(nets[0].parameters(), nets[1].parameters(), steps=200)
    close(*states, steps=200)


def test_frozen_and_unused_parameters(tmp_path):
    """Frozen ones are not in its groups; those without a gradient keep their place, also when resumed."""
    ends = []
    for resume in (False, True):
        net = model()
        net.transformer.wpe.requires_grad_(False)
        net.unused = torch.nn.Parameter(torch.ones(7))
        run = trainer(tmp_path, net, cls_and_kwargs=(posneg.AdaPNM, dict(lr=0.01)), save_strategy="steps", save_steps=3)
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resume else None)
        assert torch.equal(net.unused, torch.ones(7)) and torch.equal(net.transformer.wpe.weight, model().transformer.wpe.weight)
        ends.append(run)
    equal(*(r.model.parameters() for r in ends))
    equal(*(values(ours(r)) for r in ends))


def test_a_norm_that_is_not_finite(tmp_path):
    """Trainer steps all the same, with NaN: as with torch's optimizers."""

    class Broken(transformers.Trainer):
        def compute_loss(self, *arguments, **how):
            loss = super().compute_loss(*arguments, **how)
            return loss * float("nan") if self.state.global_step == 2 else loss

    net = model()
    run = trainer(tmp_path, net, cls_and_kwargs=(posneg.AdaPNM, dict(lr=0.01)))
    run.__class__ = Broken
    run.train()
    assert all(p.isnan().any() for p in net.parameters())


def test_offload(tmp_path):
    """posneg.offload, with the CPU for the device: the bits of its class, also resumed."""
    options = dict(lr=0.01, clip_norm=0.3)
    offload = posneg.offload.Offload, dict(options, optimizer_class=posneg.AdaPNM)
    runs = []
    for way, resume in (((posneg.AdaPNM, options), False), (offload, False), (offload, True)):
        folder = tmp_path / way[0].__name__
        run = trainer(
            folder, model(), cls_and_kwargs=way, max_grad_norm=0, save_strategy="steps", save_steps=3, gradient_accumulation_steps=2
        )
        run.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
        runs.append(run)
        assert ours(run).grad_norm > 0.3
    for other in runs[1:]:
        equal(runs[0].model.parameters(), other.model.parameters())
        equal(values(ours(runs[0])), values(ours(other)))
