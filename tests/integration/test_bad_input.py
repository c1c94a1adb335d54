"""A wrong request: one clear line, exit 2, nothing half-written, no run directory."""

import sys

import pytest
import torch
from commands import TINY, Run, run
from PIL import Image

from vitfw.cli.main import main

WRONG_TRAIN_REQUESTS = [
    (["optimizer.lrr=1"], "optimizer.lr"),
    (["optimzer.lr=1"], "optimizer.lr"),
    (["lr=0.1"], "optimizer.lr"),
    (["model=vit_b61"], "vit_b16"),
    (["dta=cifar10"], "data"),
    (["model.patch_size=3"], "img_size 8 is not a multiple of patch_size 3"),
    (["model=vit_ti4", "data=fake", "model.patch_size=5"], "nearest img_size: 30, 35"),
    (["model.num_heads=5"], "num_heads 5 does not divide embed_dim 96"),
    (["optimizer.lr=fast"], "should be a number"),
    (["scheduler.warmup=soon"], "duration 'soon' is not understood"),
    (["data.batch_size=5000"], "set data.batch_size="),
    (["data=image_folder"], "data.root=data is not a folder"),
    (["data=image_folder", "data.root=nowhere"], "data.root=nowhere is not a folder"),
    (["data=cifar10", "data.download=false"], "cifar-10-batches-py"),
    (["init_from=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    (["resume=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
    (["trainer=gpu"], "torch sees no GPU here"),
    (["model._target_=os.system"], "is not allowed"),
    (["trainer.precision=7"], "precision"),
    (["trainer.max_epochs=0"], "trainer.max_epochs"),
    (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0 must be at least 1"),
    (["trainer.devices=0"], "trainer.devices=0 must be at least 1"),
    (["trainer.accelerator=quantum"], "accelerator=quantum is not one of"),
    (["trainer.limit_train_batches=half"], "is a number of batches, or a share"),
    (["trainer.max_epochs=null"], "trainer.max_epochs=None must be at least 1, or null with"),
    (["data=fake", "data.native_size=224"], "cut each image into 12,544 patches"),
    (["model.mlp_layer=swiglu", "model.act_layer=relu"], "mlp_layer swiglu has a SiLU gate"),
    (["--lr", "0.1"], "there is no flag --lr"),
    (["hello"], "'hello' is not an override"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_TRAIN_REQUESTS, ids=lambda value: str(value))
def test_a_wrong_request_is_told_in_one_line(words, said, tmp_path, monkeypatch, capfd):
    if "trainer=gpu" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


def test_the_exit_code_of_the_process_is_2(tmp_path):
    outcome = run("train.py", "model=vit_b61", cwd=tmp_path)
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_an_unknown_key_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "optimizer.lrr=1,2"]) == 2
    err = capfd.readouterr().err
    assert "did you mean optimizer.lr" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_interval_without_a_search_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "optimizer.lr=interval(1e-4, 1e-2)"]) == 2
    err = capfd.readouterr().err
    assert "hydra/sweeper=optuna" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_wrong_value_in_a_sweep_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["hydra/launcher=basic", "model.patch_size=3,5", "trainer=debug"]
    assert main(["train", "-m", *words]) == 2
    err = capfd.readouterr().err
    assert "is not a multiple of patch_size 3" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_sweep_of_which_a_job_failed_has_its_page(tmp_path):
    words = [*TINY, "model.patch_size=3,2", "trainer=debug", "hydra.sweep.dir=sweep"]
    outcome = run("train.py", "-m", *words, cwd=tmp_path)
    assert outcome.code == 2
    assert "1 of 2 jobs failed: sweep/0 (img_size 8 is not a multiple" in outcome.err
    assert "1" in (tmp_path / "sweep" / "sweep_report.html").read_text()


def test_a_sweep_whose_jobs_would_start_the_sweep_again_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["hydra/launcher=basic", "seed=1,2", "trainer=ddp", "trainer.devices=2"]
    assert main(["train", "-m", *words]) == 2
    assert "use torchrun" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_command_without_its_checkpoint_says_so(command, capfd):
    assert main([command]) == 2
    err = capfd.readouterr().err
    assert "checkpoint" in err and len(err.splitlines()) == 1


def test_predict_refuses_what_it_cannot_run_on(digits_run: Run, tmp_path, capfd):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = [f"checkpoint={digits_run.best}", f"input={tmp_path}"]
    for wrong in ("accelerator=quantum", "precision=7", f"output={tmp_path}"):
        key = wrong.split("=")[0]
        assert key in checkpoint_error("predict", [*words, wrong], capfd)


def test_an_unknown_command_names_the_nearest(capfd):
    assert main(["trian"]) == 2
    assert "did you mean train" in capfd.readouterr().err


@pytest.fixture
def folder_of_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30), (i * 20, 0, 0)).save(tmp_path / f"pets/{name}/{i}.png")
    return tmp_path / "pets"


def test_a_class_with_no_images_is_named(folder_of_images, tmp_path, monkeypatch, capfd):
    (folder_of_images / "emu").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "data=image_folder", "data.root=pets", "model=vit_ti16"]) == 2
    assert "class 'emu' has no images" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_empty_folder_is_told(tmp_path, monkeypatch, capfd):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "data=image_folder", "data.root=empty", "model=vit_ti16"]) == 2
    assert "has no class folders" in capfd.readouterr().err


def checkpoint_error(command, words, capfd) -> str:
    assert main([command, *words]) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def test_a_truncated_checkpoint_is_told(digits_run: Run, tmp_path, capfd):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(digits_run.best.read_bytes()[:5000])
    assert "was cut off" in checkpoint_error("evaluate", [f"checkpoint={broken}"], capfd)


def test_a_checkpoint_of_another_model_names_its_tensors(
    digits_run: Run, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    err = checkpoint_error("train", [f"init_from={digits_run.best}", "model.depth=3"], capfd)
    assert "is of another model" in err and "blocks." in err
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_is_named_and_nothing_is_written(digits_run: Run, tmp_path, capfd):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("L", (8, 8)).save(images / "a.png")
    (images / "b.png").write_text("not an image")
    words = [f"checkpoint={digits_run.best}", f"input={images}", f"output={tmp_path}/out.csv"]
    assert "b.png" in checkpoint_error("predict", words, capfd)
    assert not (tmp_path / "out.csv").exists()
    assert main(["predict", *words, "skip_unreadable=true"]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_data_with_other_classes_is_refused(digits_run: Run, capfd):
    words = [f"checkpoint={digits_run.best}", "data=fake", "data.num_classes=7"]
    assert "10 classes" in checkpoint_error("evaluate", words, capfd)


def data_are_read(*_):
    raise AssertionError("data were read")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["recipe=mae", "model=vit_mini4_hybrid"], "model.embed_layer=conv"),
        (["recipe=deit_distilled", "model=deit_ti16_distilled"], "method.teacher"),
        (
            ["recipe=deit_distilled", "model=deit_ti16", "method.teacher=timm:resnet18"],
            "distillation token",
        ),
        (["recipe=linear_probe", "optimizer=sam", "init_from=x"], "optimizer=sgd"),
        (["freeze=[blokcs.*]"], "did you mean blocks.*, "),
        (["train_only=[haed.*]"], "did you mean head.*?"),
        (["recipe=lora", "lora.targets=[qvk]", "init_from=x"], "qvk"),
        (["optimizer.layer_decay=1.5"], "optimizer.layer_decay=1.5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_recipe_that_does_not_fit_is_refused_before_data_are_read(
    words, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vitfw.cli.train.build_data", data_are_read)
    assert main(["train", *words, "data=fashion_mnist"]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("schedulefree", ["optimizer=schedule_free", "scheduler=constant"]),
        ("peft", ["recipe=lora", "init_from=x"]),
    ],
)
def test_a_missing_package_is_told_before_data_are_read(
    package, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("vitfw.cli.train.build_data", data_are_read)
    assert main(["train", *words, "data=fashion_mnist"]) == 2
    assert f"pip install 'vitfw[{package}]'" in capsys.readouterr().err
