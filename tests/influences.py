"""Influences of sixteen clusters that tests of intervals work with by hand."""

from math import sqrt

import numpy as np

from codesign.figures.quantiles import student_t

EVEN = np.resize([1.0, -1.0], 16)
"""Every cluster as far off as every other."""
HALF = np.resize([1.0, 1.0, -1.0, -1.0], 16)
"""The same, uncorrelated with EVEN."""
REACH = student_t(0.975, 15) * sqrt(15)
"""Reach of sixteen influences of plus and minus one: their jackknife variance is 15/16 of 16."""
