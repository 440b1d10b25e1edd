"""CenterFace, the embedded default detector (Xu et al., arXiv 1911.03599)."""
