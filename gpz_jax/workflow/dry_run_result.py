"""What a dry run finds out before anything is paid for: plain numbers, which pass between processes as JSON."""

import dataclasses
import math
from typing import Any

NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of one program, of one device.

    Attributes:
      name: what it does.
      images: of a step, over all devices.
      times: steps that the command takes of it, at most.
      parameters: numbers that are trained; 0 where none are.
      held: bytes of what goes in: parameters, optimiser, images.
      peak: bytes held at once: what goes in and comes out, and what the compiler adds for itself.
      flops: floating-point operations a step.
      seconds: a step, median of three after one that warms up; NaN where it was not run.
      estimate: seconds a step by the compiler's own count of cycles; NaN where it has none.
      collectives: what devices exchange in a step, name -> how often.
      compile_seconds: that compiling took.
      refused: whether the compiler itself found it too large.
    """

    name: str
    images: int
    times: int
    parameters: int
    held: int
    peak: int
    flops: float = NAN
    seconds: float = NAN
    estimate: float = NAN
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    compile_seconds: float = NAN
    refused: bool = False

    @property
    def step(self) -> float:
        """Seconds a step, as measured or else as estimated."""
        return self.estimate if math.isnan(self.seconds) else self.seconds


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a command would need.

    Attributes:
      what: would be done, in words.
      device: the kind of device.
      devices: how many.
      memory: bytes that one of them has.
      images: name of a part -> how many images.
      image: height, width, channels of one as it is kept, a byte a value.
      epochs: passes over the training images.
      programs: all that are compiled, but for what is small.
      lower: settings that would make it smaller, the first most.
      notes: sentences.
      placement: where the images lie, in words.
    """

    what: str
    device: str
    devices: int
    memory: int
    images: dict[str, int]
    image: tuple[int, ...]
    epochs: int
    programs: tuple[Program, ...]
    lower: tuple[str, ...]
    notes: tuple[str, ...] = ()
    placement: str = "all images on every device"

    @property
    def largest(self) -> Program:
        """The program of most memory."""
        return max(self.programs, key=lambda program: (program.refused, program.peak))

    @property
    def fits(self) -> bool:
        """Whether every program fits into a device's memory."""
        return not any(program.refused for program in self.programs) and self.largest.peak <= self.memory

    @property
    def seconds(self) -> float:
        """Of all steps together, at most; NaN where a step's is not known."""
        return sum(program.step * program.times for program in self.programs)

    @property
    def batch_that_fits(self) -> int:
        """Images a step at which the largest program would about fit, a multiple of the devices; 0 if none would.

        What is held whatever the batch stays; the rest is taken to fall with it.
        """
        program = self.largest
        rest = max(program.peak - program.held, 1)
        images = int(0.9 * program.images * max(self.memory - program.held, 0) / rest)
        return min(images, program.images - 1) // self.devices * self.devices


def from_plain(values: dict[str, Any]) -> Program:
    """A program from what ``dataclasses.asdict`` made of it, through JSON.

    >>> from_plain(dataclasses.asdict(Program("a", 1, 2, 3, 4, 5))).peak
    5
    """
    return Program(**values)
