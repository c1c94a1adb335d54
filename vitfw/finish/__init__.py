"""How a run ends: the test, `metrics.json`, the report, and the closing table."""

from vitfw.finish.close import Run, close_run, report_failure, report_stop

__all__ = ["Run", "close_run", "report_failure", "report_stop"]
