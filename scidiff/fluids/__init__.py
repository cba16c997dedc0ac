"""Flow fields: solvers that make data, denoisers, constraints that hold, reconstruction from sensors.

Fields are tensors [..., H, W] on a periodic box: y along H, x along W. Velocities are [..., 2, H, W], u along x first.
"""
