"""One base over several processes: torch.distributed, FSDP2, DeepSpeed."""
