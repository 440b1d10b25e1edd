"""The networks of the system. Nothing here knows of files other than checkpoints (`models.checkpoint`)."""

from models.discriminator import Wav2Lip_disc_qual
from models.syncnet import SyncNet_color
from models.wav2lip import Wav2Lip

__all__ = ["SyncNet_color", "Wav2Lip", "Wav2Lip_disc_qual"]
