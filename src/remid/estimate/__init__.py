"""Information estimators, their uncertainty, divergences and the bound: pure functions of matrices."""

from remid.estimate.bound import Bound, upper_bound
from remid.estimate.design import balanced_design
from remid.estimate.divergence import Divergence, classifier_js, rjsd
from remid.estimate.inference import contrast, estimate, pool, remid
from remid.estimate.information import UNITS, Influence, club, contrast_scores, in_unit, remi
from remid.estimate.multiple import holm

__all__ = [
    "UNITS",
    "Bound",
    "Divergence",
    "Influence",
    "balanced_design",
    "classifier_js",
    "club",
    "contrast",
    "contrast_scores",
    "estimate",
    "holm",
    "in_unit",
    "pool",
    "remi",
    "remid",
    "rjsd",
    "upper_bound",
]
