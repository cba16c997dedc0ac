"""Clinical and other time series with gaps: read, put on a grid, imputed with intervals, written back as they came."""
