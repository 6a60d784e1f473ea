# What segzoo.evaluation offers, imported on first use.
from .report import EvaluationReport as EvaluationReport
from .score_log import ImageRow as ImageRow
from .score_log import ScoreLog as ScoreLog
from .scoring import Evaluation as Evaluation
from .scoring import ImageScore as ImageScore
from .scoring import evaluate as evaluate
