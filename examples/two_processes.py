"""Train on two processes; on a CPU they talk over gloo, on GPUs over NCCL.

    torchrun --standalone --nproc_per_node 2 examples/two_processes.py [MODEL]
    accelerate launch --config_file examples/two_processes.yaml examples/two_processes.py [MODEL]
    accelerate launch --config_file examples/fsdp2.yaml examples/two_processes.py [MODEL]
    accelerate launch --config_file examples/zero2.yaml examples/two_processes.py [MODEL]

The third splits the weights over the processes (FSDP2); the others hold them whole in each (DDP). The last splits the
optimizer's state (DeepSpeed's ZeRO-2, which needs `pip install '.[deepspeed]'`).
Run without a launcher it stops, so that a launch line that starts one process is noticed.
"""

import sys

import torch
from peft import LoraConfig
from trl import SFTConfig

import mithridate as mi

model = sys.argv[1] if len(sys.argv) > 1 else str(mi.miniature.base())
trainer = mi.DefendedTrainer(
    model,
    args=SFTConfig(
        "runs/two",
        max_steps=4,
        per_device_train_batch_size=4,  # of each process: 8 rows an optimizer step
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
    ),
    train_dataset=mi.miniature.rows("task").select(range(64)),
    peft_config=LoraConfig(r=8, target_modules="all-linear"),
    defense=mi.Lisa(safe_steps=1, user_steps=1, warmup=0.0),
    safe_dataset=mi.miniature.rows("safe"),
)
processes = trainer.accelerator.num_processes
if processes != 2:
    sys.exit(f"this example needs 2 processes and was started as {processes}; see its launch lines")
trainer.train()
trainer.save_model("runs/two/model")  # on all processes: under FSDP2 each holds a part
if trainer.accelerator.is_main_process:
    kind = "FSDP2" if trainer.is_fsdp_enabled else "DeepSpeed" if trainer.is_deepspeed_enabled else "DDP"
    print(f"trained on {processes} processes with {kind}, loss {trainer.state.log_history[-1]['train_loss']:.3f}")
trainer.accelerator.end_training()
