/* A stand-in for NVIDIA's library: one card whose figures are known. Signatures as in nvml.h of CUDA 12. */
#include <string.h>

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **card) { *card = (void *)1; return index; }
int nvmlDeviceGetName(void *card, char *name, unsigned length) { strncpy(name, "Stand-in 24", length); return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *card, struct memory *it) { it->total = 24ULL << 30; it->free = 16ULL << 30; it->used = 8ULL << 30; return 0; }
int nvmlDeviceGetUtilizationRates(void *card, struct utilization *it) { it->gpu = 37; it->memory = 5; return 0; }
int nvmlDeviceGetTemperature(void *card, unsigned sensor, unsigned *celsius) { *celsius = 61; return 0; }
int nvmlDeviceGetPowerUsage(void *card, unsigned *milliwatts) { *milliwatts = 212500; return 0; }
