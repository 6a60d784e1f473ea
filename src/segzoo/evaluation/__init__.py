"""Scoring a model on a data set: the run, its log, its report and its pictures."""

from segzoo.lazy import lazy_attributes

# No module may be called as something that is offered here: importing it would put the module in the name's place.
_MODULES = {
    "report": ("EvaluationReport",),
    "score_log": ("ImageRow", "ScoreLog"),
    "scoring": ("Evaluation", "ImageScore", "evaluate"),
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
