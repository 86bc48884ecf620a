"""What other trainers call things.

Those of kohya's sd-scripts, OneTrainer, ai-toolkit, SimpleTuner, diffusers' scripts and peft, each
without `_` and `-` and in lower case.
"""
