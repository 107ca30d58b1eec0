"""Information estimators, their uncertainty, divergences and the bound: pure functions of matrices."""

from remid.estimate.bound import Bound, upper_bound
from remid.estimate.copier import Copier, Copyable, Split, copier_logp, split_information
from remid.estimate.design import balanced_design
from remid.estimate.divergence import Divergence, classifier_js, cross_fitted_logits, rjsd
from remid.estimate.estimators import ceiling, infonce, infonce_tempered, interpolated, l1out, nwj, retrieval, smile
from remid.estimate.gap import (
    Gap,
    Paired,
    Told,
    draw_contexts,
    gap_bound,
    gap_difference,
    gap_estimate,
    mean_length,
    measure_gap,
    paired,
    part_estimate,
    together,
)
from remid.estimate.inference import contrast, estimate, pool, remid, share_interval, wilson
from remid.estimate.information import UNITS, Influence, club, contrast_scores, in_unit, remi
from remid.estimate.mixture import mixed_logp
from remid.estimate.multiple import holm
from remid.estimate.plugin import Side, plugin_bounds, response_gains
from remid.estimate.shares import divergence_shares

__all__ = [
    "UNITS",
    "Bound",
    "Copier",
    "Copyable",
    "Divergence",
    "Gap",
    "Influence",
    "Paired",
    "Side",
    "Split",
    "Told",
    "balanced_design",
    "ceiling",
    "classifier_js",
    "club",
    "contrast",
    "contrast_scores",
    "copier_logp",
    "cross_fitted_logits",
    "divergence_shares",
    "draw_contexts",
    "estimate",
    "gap_bound",
    "gap_difference",
    "gap_estimate",
    "holm",
    "in_unit",
    "infonce",
    "infonce_tempered",
    "interpolated",
    "l1out",
    "mean_length",
    "measure_gap",
    "mixed_logp",
    "nwj",
    "paired",
    "part_estimate",
    "plugin_bounds",
    "pool",
    "remi",
    "remid",
    "response_gains",
    "retrieval",
    "rjsd",
    "share_interval",
    "smile",
    "split_information",
    "together",
    "upper_bound",
    "wilson",
]
