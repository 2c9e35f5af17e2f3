import psutil
import pynvml
import pytest
import torch

from tritonlm.engine import resources


def test_without_a_gpu_there_is_the_memory_of_the_process_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    measured = resources.measure()
    assert measured.memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert (measured.gpu_memory_bytes, measured.gpu_usage) == (0, None)


def test_a_gpu_is_measured_as_a_whole(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 80))
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 75)
    measured = resources.measure()
    assert (measured.gpu_memory_used_bytes, measured.gpu_memory_bytes) == (50, 80)
    assert measured.gpu_usage == 0.75


def test_a_driver_that_does_not_tell_its_use_leaves_the_memory(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 80))
    monkeypatch.setattr(torch.cuda, "utilization", fail)
    measured = resources.measure()
    assert (measured.gpu_memory_bytes, measured.gpu_usage) == (80, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_numbers_are_the_drivers():
    held = torch.ones(2**28, device="cuda")
    measured = resources.measure()
    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    told = pynvml.nvmlDeviceGetMemoryInfo(device)
    assert measured.gpu_memory_bytes == pytest.approx(told.total, rel=0.05)
    assert measured.gpu_memory_used_bytes == pytest.approx(told.used, rel=0.2)
    assert measured.gpu_memory_used_bytes > held.nbytes
    assert 0 <= measured.gpu_usage <= 1
