"""How fast a training step runs, what is in its way, and how far it is from the fastest there can be.

`ppvae check PAIR --speed`, or from Python `speed_of(pair)`. Counts (kernels, waits for the device, memory
traffic, FLOP) come from one recorded step; times are medians over interleaved repeats.
"""

from ppvae.speed.counting import Counts, Latent, Wait
from ppvae.speed.measuring import counts_of, speed_of
from ppvae.speed.report import Floor, Setting, Speed, Times

__all__ = ["Counts", "Floor", "Latent", "Setting", "Speed", "Times", "Wait", "counts_of", "speed_of"]
