"""The script of an array job, without SLURM: what a place or a flag is called never means something to sbatch."""

import shlex

from cilmp.experiments.slurm import Slurm


def test_places_and_flags_are_one_word_each(tmp_path):
    """Before: sbatch read --output to the first blank, and what stood behind was further options."""
    output = tmp_path / 'my runs $HOME "q" 5%a'
    job = Slurm([], output, name="trial", asked={"partition": "a b$c", "time": "1:00 --uid=0"})
    lines = job.script(3).splitlines()
    options = [shlex.split(line.removeprefix("#SBATCH ")) for line in lines if line.startswith("#SBATCH")]
    assert all(len(words) == 1 for words in options), options
    said = dict(words[0].removeprefix("--").split("=", 1) for words in options if "=" in words[0])
    assert said["output"] == f"{output}/studies/trial".replace("%", "%%") + "/logs/%a.log"
    assert said["partition"] == "a b$c" and said["time"] == "1:00 --uid=0" and said["array"] == "0-2"
