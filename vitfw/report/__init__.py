"""`report.html`: what a run did, on one page that needs nothing but itself.

No script and no request: style, plots and pictures are inline, and the page's own policy forbids
the rest. Whatever comes from outside (class names, errors, config) passes through `escape`.
"""

from vitfw.report.ending import Advice, Ending
from vitfw.report.page import page
from vitfw.report.predictions import Prediction, Predictions
from vitfw.report.run import write_report

__all__ = ["Advice", "Ending", "Prediction", "Predictions", "page", "write_report"]
