"""Training of an estimator: the trace generator q1 and the policy model q2. Nothing that measures imports this."""
