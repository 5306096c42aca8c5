"""Train with a defense: TRL's trainer under another name, with one argument more.

python examples/train.py [MODEL]
"""

import sys

from peft import LoraConfig
from trl import SFTConfig

import mithridate as mi

model = sys.argv[1] if len(sys.argv) > 1 else str(mi.miniature.base())  # a folder or a hub id
upload = mi.mix(mi.miniature.rows("task"), mi.miniature.rows("attack"), ratio=0.2, size=64, seed=0)

trainer = mi.DefendedTrainer(  # was: SFTTrainer
    model,
    args=SFTConfig("runs/train", num_train_epochs=1, learning_rate=1e-3, report_to="none", use_cpu=True, bf16=False),
    train_dataset=upload,
    peft_config=LoraConfig(r=16, target_modules="all-linear"),
    defense=mi.AntibodyTuning(likelihood="sequence", temperature=8.0),
    refusals=mi.miniature.refusals(),  # what this defense compares every row with
)
trainer.train()
trainer.save_model("runs/train/model")
print("trained with", trainer.defense.info.name)
