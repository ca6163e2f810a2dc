// A CUDA device that is none: enough for autograd to run over tensors without data (FakeTensorMode) on a machine and a
// torch without CUDA. Must be loaded before torch is imported, which looks for its hooks once.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/FakeGuardImpl.h>

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, FakeGuardImpl<DeviceType::CUDA>)
} // namespace c10::impl

namespace at {

struct StandInHooks : CUDAHooksInterface {
  explicit StandInHooks(CUDAHooksArgs /*unused*/) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex /*unused*/) const override {
    return true;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  int getNumGPUs() const override {
    return 1;
  }
};

C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, StandInHooks)

} // namespace at
