"""What was typed wrong is answered with what was meant; what could run code is not imported."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from vitfw.building import build, check_targets
from vitfw.cli.app import quote_path
from vitfw.cli.main import main
from vitfw.config import compose, explain_override, flatten, to_plain
from vitfw.errors import ConfigError


def refused(*overrides: str, command: str = "train") -> str:
    """The one line that answers these overrides."""
    with pytest.raises(ConfigError) as caught:
        to_plain(compose(command, overrides))
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# ── composing ─────────────────────────────────────────────────────────────────────────────────


def test_what_was_typed_reaches_the_config():
    config = to_plain(compose("train", ["model=vit_b16", "data=cifar10", "optimizer.lr=3e-4"]))
    assert config["model"]["embed_dim"] == 768
    assert config["data"]["name"] == "cifar10"
    assert config["optimizer"]["lr"] == 3e-4


def test_the_model_follows_the_data_set():
    config = to_plain(compose("train", ["model=vit_ti4", "data=cifar100"]))
    assert config["model"]["num_classes"] == 100
    assert config["model"]["in_chans"] == 3
    assert config["model"]["img_size"] == 32
    config = to_plain(compose("train", ["model=vit_ti4", "data=fake", "data.num_classes=7"]))
    assert config["model"]["num_classes"] == 7


def test_a_plain_config_holds_plain_types_only():
    def check(value):
        if isinstance(value, dict):
            assert type(value) is dict and all(type(key) is str for key in value)
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            assert type(value) is list
            for inner in value:
                check(inner)
        else:
            assert value is None or type(value) in (str, int, float, bool), value

    check(to_plain(compose("train", ["run_dir=here"])))


def test_flat_keys_are_those_one_types():
    assert flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": {}}) == {
        "a.b": 1,
        "a.c.d": [2, 3],
        "e": {},
    }


# ── wrong keys and options ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("optimizer.lrr=1e-3", "optimizer.lr"),
        ("optimzer.lr=1e-3", "optimizer.lr"),
        ("lr=0.1", "optimizer.lr"),
        ("max_epochs=3", "trainer.max_epochs"),
        ("batch_size=3", "data.batch_size"),
        ("model.num_head=3", "model.num_heads"),
        ("model.patchsize=3", "model.patch_size"),
        ("trainer.epochs=3", "trainer.max_epochs"),
        ("sede=1", "seed"),
        ("modle=vit_b16", "model"),
        ("~optimizer.lrr", "optimizer.lr"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(typed, meant):
    message = refused(typed)
    key = typed.split("=")[0].removeprefix("~")
    assert message.startswith(f"no config key is called {key!r}")
    assert meant in message.partition("did you mean ")[2].rstrip("?").split(", ")


def test_a_key_of_another_option_of_the_group_is_looked_up_in_the_chosen_one():
    assert "did you mean" in refused("optimizer=sgd", "optimizer.momentun=0.8")
    assert "optimizer.momentum" in refused("optimizer=sgd", "optimizer.momentun=0.8")


def test_a_key_like_no_other_says_where_all_are_listed():
    assert "vitfw train --cfg job" in refused("xyzzy=1")


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("model=vit_b61", "vit_b16"),
        ("data=cifar", "cifar10"),
        ("optimizer=adam", "adamw"),
        ("trainer=gpuu", "gpu"),
        ("scheduler=cosin", "cosine"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest_and_a_short_list_of_all(typed, meant):
    message = refused(typed)
    assert message.startswith(f"{typed} does not exist; did you mean ")
    assert meant in message.split("?")[0]
    known = sorted(known_options(typed.split("=")[0]))
    assert ("known:" in message) == (len(known) <= 12)
    if len(known) <= 12:
        assert f"known: {', '.join(known)}" in message


def known_options(group: str) -> list[str]:
    folder = Path(__file__).parents[1] / "configs" / group
    return [p.stem for p in folder.iterdir() if not p.name.startswith("_")]


def test_an_option_like_no_other_is_answered_with_all():
    assert refused("model=zzz").startswith("model=zzz does not exist; known: cct7_3x1")


def test_an_unknown_data_set_in_a_key_is_answered_with_the_nearest():
    assert "did you mean cifar10" in refused("data.name=cifar11")


@pytest.mark.parametrize(
    "typed",
    ["optimizer.lr", "optimizer.lr=[1", "-x", "a b=c", "=3", "=", "model=3", "model=", "model.=1"],
)
def test_what_is_no_override_is_answered_in_one_line(typed):
    refused(typed)


@pytest.mark.parametrize("typed", ["logger=null", "callbacks=null"])
def test_a_group_that_is_null_is_told_its_options(typed):
    group = typed.removesuffix("=null")
    said = refused(typed)
    assert said.startswith(f"{typed}: a group is one of its options; known: ")
    assert {"logger": "csv", "callbacks": "essential"}[group] in said


def test_a_word_without_a_value_is_told_how_to_write_one():
    assert refused("optimizer.lr") == (
        "'optimizer.lr' is not an override; write key=value, such as optimizer.lr=1e-3"
    )


def test_a_list_that_the_shell_took_the_quotes_of_is_told_how_to_write_it():
    said = refused("freeze=[patch_embed.*,blocks.[0-5].*]")
    assert """'freeze=["blocks.[0-5].*"]'""" in said
    compose("train", ['freeze=["patch_embed.*","blocks.[0-5].*"]'])


# ── wrong values ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "typed, wanted",
    [
        ("optimizer.lr=fast", "a number"),
        ("optimizer.lr=1e-3x", "a number"),
        ("trainer.max_epochs=true", "a number"),
        ("data.batch_size=", "a number"),
        ("seed=x", "a number"),
        ("model.qkv_bias=perhaps", "true or false"),
        ("compile=1", "true or false"),
        ("model.num_classes=ten", "a number"),
    ],
)
def test_a_word_does_not_stand_for_a_number_nor_a_number_for_a_switch(typed, wanted):
    key, _, _ = typed.partition("=")
    message = refused(typed)
    assert message.startswith(key) and f"should be {wanted}, such as {key}=" in message


@pytest.mark.parametrize(
    "typed",
    [
        "optimizer.lr=1",
        "optimizer.lr=1e-3",
        "trainer.gradient_clip_val=1.0",
        "trainer.precision=16-mixed",
        "model.img_size=[8,16]",
        "model.qk_scale=0.1",
        "seed=null",
        "compile=True",
        "scheduler=inverse_sqrt scheduler.cooldown=20%",
        "scheduler=inverse_sqrt scheduler.timescale=2ep",
        "scheduler=wsd scheduler.cooldown=500",
        "scheduler=cooldown scheduler.length=2ep",
        "recipe=scratch_imagenet_plain scheduler.warmup=5%",
        "recipe=linear_probe init_from=x scheduler.warmup=1ep",
        "average=swa average.start=10 average.every=2ep",
    ],
)
def test_a_value_of_the_right_kind_is_taken(typed):
    compose("train", typed.split())


@pytest.mark.parametrize("recipe", ["finetune", "lora", "bitfit", "linear_probe"])
def test_weights_of_timms_own_stand_for_those_that_a_recipe_needs(recipe):
    """They are asked for where there are none."""
    words = [f"recipe={recipe}", "run_dir=x", "model=timm", "model.name=vit_tiny_patch16_224"]
    assert to_plain(compose("train", [*words, "model.pretrained=true"]))["init_from"] is None
    with pytest.raises(ConfigError, match="init_from is needed: give init_from=…"):
        to_plain(compose("train", words))


def test_a_missing_value_is_asked_for_by_its_key():
    assert refused("input=x.png", command="predict") == "checkpoint is needed: give checkpoint=…"


def test_an_image_folder_without_root_is_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITFW_DATA", raising=False)
    assert "data.root" in refused("data=image_folder")


def test_an_image_folder_is_counted(tmp_path):
    for name in ("cat", "dog", "emu"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    config = to_plain(compose("train", ["data=image_folder", f"data.root={tmp_path}"]))
    assert config["model"]["num_classes"] == 3


# ── what may be built ─────────────────────────────────────────────────────────────────────────


def target(name: str) -> dict:
    return {"_target_": name}


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.run",
        "torch.load",
        "torch.hub.load",
        "shutil.rmtree",
        "vitfw.cli.train.main",
        "torchvision.datasets.CIFAR10",
        "hydra.utils.get_method",
        "lightning_evil.Trainer",
        "vitfw",
        "",
    ],
)
def test_a_target_off_the_list_is_refused_by_name_with_what_is_allowed(name):
    with pytest.raises(ConfigError) as caught:
        check_targets({"model": {"inner": [target(name)]}})
    assert f"_target_ {name!r} is not allowed; allowed are names under" in str(caught.value)
    assert "VITFW_TARGETS" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "vitfw.data.reading.fetch_scratch.shutil.rmtree",
        "vitfw.data.reading.image_file.io.open",
        "vitfw.data.reading.sources.Path",
        "vitfw.data.sets.handwriting.datasets.CIFAR10",
        "vitfw.models.vit.torch.load",
        "vitfw.models.vit.torch.hub.load",
        "torch.nn.functional.torch.hub.load",
        "torch.nn.modules.module.warnings.warn",
        "vitfw.data.catalog.CATALOG",
        "vitfw.training.optimizers",
    ],
)
def test_a_target_that_only_passes_through_an_allowed_name_is_refused(name):
    with pytest.raises(ConfigError, match=f"_target_ '{name}' is not allowed: it comes from"):
        check_targets(target(name))


def test_a_refused_target_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "vitfw_trap.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not allowed"):
        build(target("vitfw_trap.anything"))
    assert "vitfw_trap" not in sys.modules
    assert not (tmp_path / "it ran").exists()


def test_a_refused_target_inside_an_allowed_one_is_not_called(tmp_path):
    (tmp_path / "precious").mkdir()
    node = {
        "_target_": "torch.nn.Linear",
        "in_features": 2,
        "out_features": {"_target_": "shutil.rmtree", "path": str(tmp_path / "precious")},
    }
    with pytest.raises(ConfigError, match=r"'shutil\.rmtree' is not allowed"):
        build(node)
    assert (tmp_path / "precious").exists()
    assert shutil.rmtree  # it was there to be called


def test_ones_own_package_is_opened_by_an_environment_variable(tmp_path, monkeypatch):
    (tmp_path / "my_vit.py").write_text(
        "class Net:\n    def __init__(self, size):\n        self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "my_vit.Net", "size": 3}
    with pytest.raises(ConfigError, match="VITFW_TARGETS=package"):
        build(node)
    monkeypatch.setenv("VITFW_TARGETS", "other.,my_vit.")
    assert build(node).size == 3
    with pytest.raises(ConfigError, match="not allowed"):
        build(target("os.system"))


def test_a_target_that_does_not_exist_is_said_not_to():
    with pytest.raises(ConfigError, match=r"'torch\.nn\.Linnear' does not exist"):
        build(target("torch.nn.Linnear"))


# ── building ──────────────────────────────────────────────────────────────────────────────────


def test_nested_nodes_are_built_first_and_partials_wait():
    node = {
        "_target_": "torch.nn.Sequential",
        "_args_": [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}],
    }
    assert build(node)(torch.ones(1, 2)).shape == (1, 3)
    make = build({"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 2})
    assert make(out_features=5).out_features == 5


def test_an_option_a_constructor_does_not_have_is_answered_with_those_it_has():
    with pytest.raises(ConfigError) as caught:
        build({"_target_": "torch.nn.Dropout", "p": 0.1, "rate": 0.5})
    assert str(caught.value) == "torch.nn.Dropout has no option 'rate'; known: p, inplace"


def test_an_option_an_inner_node_does_not_have_is_answered_with_its_own_name():
    inner = {"_target_": "torch.nn.Dropout", "rate": 0.5}
    with pytest.raises(ConfigError, match=r"^torch\.nn\.Dropout has no option 'rate'; known: p"):
        build({"_target_": "torch.nn.Sequential", "_args_": [inner]})


def test_a_constructors_own_complaint_is_passed_on_in_one_line():
    config = to_plain(compose("train", ["data=cifar10", "model=vit_ti4", "model.patch_size=5"]))
    with pytest.raises(ConfigError, match="img_size 32 is not a multiple of patch_size 5"):
        build(config["model"])


# ── groups beside recipes ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words, group",
    [
        ("recipe=finetune init_from=x optimizer=sgd", "optimizer"),
        ("recipe=cct augment=none", "augment"),
        ("recipe=cct augment=shift", "augment"),
        ("recipe=mae optimizer=sgd", "optimizer"),
        ("recipe=deit scheduler=inverse_sqrt", "scheduler"),
        ("recipe=deit scheduler=cooldown", "scheduler"),
        ("recipe=deit3 loss=cross_entropy", "loss"),
        ("recipe=deit average=swa", "average"),
        ("experiment=fashion_mnist_10min scheduler=constant", "scheduler"),
    ],
)
def test_a_group_typed_beside_a_recipe_is_as_its_own_file_says(words, group):
    typed = [word for word in words.split() if word.startswith(f"{group}=")]
    plain = compose("train", typed)[group]
    assert to_plain(compose("train", words.split()))[group] == to_plain(plain)


def test_the_config_that_is_shown_is_the_one_that_would_be_trained(capsys):
    words = ["recipe=finetune", "init_from=x", "optimizer=sgd", "run_dir=x"]
    assert main(["train", *words, "--cfg", "job", "--resolve"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == to_plain(compose("train", words))
    assert main(["train", *words, "--cfg", "job", "--package", "optimizer"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["lr"] == 0.1
    assert main(["train", *words, "--cfg", "job", "--package", "optimizer.lr"]) == 0
    assert capsys.readouterr().out == "0.1\n"
    assert main(["train", *words, "--cfg", "job", "--package", "optimiser"]) == 2
    assert "optimizer" in capsys.readouterr().err


def test_what_a_shown_config_lacks_is_said_as_in_training(capsys):
    assert main(["train", "recipe=finetune", "--cfg", "job", "--resolve"]) == 2
    assert capsys.readouterr().err == "error: init_from is needed: give init_from=…\n"


def test_a_path_may_hold_what_hydra_reads_as_signs():
    for key in ("init_from", "method.teacher", "run_dir"):
        word = quote_path(f"{key}=/d/lr=1e-3,(x)/best.ckpt")
        words = [word] if key != "method.teacher" else ["method=distill", word]
        value = OmegaConf.select(compose("train", words), key)
        assert value == "/d/lr=1e-3,(x)/best.ckpt"


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("timm:resnet18,timm:resnet34", ["timm:resnet18", "timm:resnet34"]),
        ("/d/lr=1 (a).ckpt,/e.ckpt", ["/d/lr=1 (a).ckpt", "/e.ckpt"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_paths_can_be_swept_over(typed, values):
    word = quote_path(f"init_from={typed}", sweep=True)
    sweep = OverridesParser.create().parse_override(word)
    assert sweep.is_sweep_override()
    assert [value.strip("'") for value in sweep.sweep_string_iterator()] == values


def test_a_bracket_that_is_missing_is_named():
    said = explain_override("optimizer.betas=[0.9,0.95")
    assert "as many [ as ]" in said and "quotes" not in said
    assert "quotes" in explain_override("freeze=[blocks.(a).*]")


def test_single_values_and_the_recipes_own_choice_stay():
    config = compose("train", ["recipe=deit", "optimizer=sgd", "optimizer.momentum=0.5"])
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.1, 0.5)
    same = compose("train", ["recipe=cct", "optimizer=adamw"])
    assert same.optimizer.lr == compose("train", ["recipe=cct"]).optimizer.lr == 5.5e-4
    assert config.trainer.max_epochs == 300
