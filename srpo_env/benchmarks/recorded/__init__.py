"""Checks the progress reward on recorded episodes with success labels, without a simulator.

For each task, every success is compared with the *other* successes (leave-one-out), and failures
are compared with the same references:

* **Correlation**: rank correlation with time of the progress of a success's growing prefixes.
* **Separation**: share of pairs in which a failure is farther away than a success (AUC).
* **Spread**: standard deviation of the failures' distances over their mean.

These conditions are necessary, not sufficient: the actual progress of a failure is unknown here,
and the distance of a growing prefix tends to fall with any encoder that sees the robot move.
``srpo-env benchmark reward`` compares rewards with the simulator's progress, on LIBERO.
"""
