"""S3FD, the published pipeline's detector (Zhang et al., ICCV 2017)."""
