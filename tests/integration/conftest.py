"""One small finished run, for all tests that look at a run or use its checkpoint."""

import pytest
from commands import TINY, Run, run_from_start


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three epochs on the digits with a tiny model, through train.py."""
    folder = tmp_path_factory.mktemp("digits")
    outcome = run_from_start("train.py", *TINY, "trainer.max_epochs=3", cwd=folder)
    assert outcome.code == 0, outcome.err
    (path,) = (folder / "runs" / "vit_nano-digits").iterdir()
    return Run(folder, path, outcome)
