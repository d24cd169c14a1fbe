"""The recipe of the embedded base model, models/base.

`settings` types models/base.yaml; `pool` renders pictures, `views` cuts training views out of them; `autoencoder`,
`text` and `unet` make the parts of the model. `python -m lib.base --help` says how to run it.
"""
