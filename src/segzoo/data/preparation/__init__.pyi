# What segzoo.data.preparation offers, imported on first use.
from .needs import NEEDS as NEEDS
from .preparing import prepare as prepare
from .releases import RELEASES as RELEASES
