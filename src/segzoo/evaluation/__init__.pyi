# What segzoo.evaluation offers, imported on first use.
from .api import Scored as Scored
from .report import EvaluationReport as EvaluationReport
from .run import EvaluationOptions as EvaluationOptions
from .score_log import ImageRow as ImageRow
from .score_log import ScoreLog as ScoreLog
from .scoring import Evaluation as Evaluation
from .scoring import ImageScore as ImageScore
from .scoring import evaluate as evaluate
