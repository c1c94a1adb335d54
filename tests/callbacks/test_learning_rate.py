"""The curves of learning rate and weight decay say what each step was made with."""

import lightning as L
import torch
from tiny_fit import fit

from vitfw.callbacks.learning_rate import LearningRate


def two_groups(net):
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [p for p in net.parameters() if p.ndim == 1]
    groups = [
        {"name": "decayed", "params": weights, "weight_decay": 0.5},
        {"name": "others", "params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=1.0)


def halved_each_step(optimizer, **_):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


class DecayEndsAfterTwoSteps(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 2:
            trainer.optimizers[0].param_groups[0]["weight_decay"] = 0.0


def test_each_group_has_the_rate_its_step_was_made_with():
    records, _ = fit(LearningRate(), optimizer=two_groups, scheduler=halved_each_step)
    assert records.curve("lr/decayed") == {1: 1.0, 2: 0.5, 3: 0.25, 4: 0.125}
    assert records.curve("lr/others") == records.curve("lr/decayed")


def test_weight_decay_is_shown_down_to_zero_and_not_of_groups_that_have_none():
    records, _ = fit(LearningRate(), DecayEndsAfterTwoSteps(), optimizer=two_groups)
    assert records.curve("weight_decay/decayed") == {1: 0.5, 2: 0.5, 3: 0.0, 4: 0.0}
    assert records.tags("weight_decay/") == {"weight_decay/decayed"}


def test_the_last_step_of_an_epoch_and_of_the_run_is_logged():
    records, _ = fit(LearningRate(), log_every_n_steps=50, max_epochs=2, max_steps=6)
    assert set(records.curve("lr/0")) == {4, 6}


def test_a_run_that_ends_while_gradients_gather_logs_its_last_step_once():
    records, _ = fit(
        LearningRate(), log_every_n_steps=50, max_epochs=3, max_steps=3, accumulate_grad_batches=2
    )
    rows = [step for step, values in records.rows if "lr/0" in values]
    assert rows == [2, 3]
