# What segzoo.prediction offers, imported on first use.
from .api import predict as predict
from .labeller import Labeller as Labeller
from .labeller import Prediction as Prediction
from .labeller import Speed as Speed
