/* The few calls of libcuda.so.1 by which GPUs are counted and named, on as many as FAKE_GPUS has UUIDs (32 hex digits
   each, with commas). Reads CUDA_VISIBLE_DEVICES as NVIDIA documents it, once, in cuInit: indices, or GPU-… and the
   beginning of a UUID; what follows an entry that fits nothing is not seen. FAKE_CUDA_FAILS is what cuInit answers; -1
   crashes. Each process that starts it leaves an empty file of its id in FAKE_CUDA_STARTED. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 16
static char there[MOST][64];
static int seen[MOST], count = -1;

static const char *setting(const char *name) { return getenv(name) ? getenv(name) : ""; }

static int split(const char *text, char parts[MOST][64]) {
  int found = 0;
  char copy[1024];
  snprintf(copy, sizeof copy, "%s", text);
  for (char *part = strtok(copy, ","); part && found < MOST; part = strtok(NULL, ","))
    snprintf(parts[found++], 64, "%s", part);
  return found;
}

static int position(const char *entry, int total) { /* among those that are there; -1: it fits none */
  char digits[64] = "", *end;
  if (strncmp(entry, "GPU-", 4)) {
    long index = strtol(entry, &end, 10);
    return *end || index < 0 || index >= total ? -1 : (int)index;
  }
  for (const char *from = entry + 4; *from; from++)
    if (*from != '-') strncat(digits, from, 1);
  for (int i = 0; i < total; i++)
    if (!strncmp(there[i], digits, strlen(digits))) return i;
  return -1;
}

int cuInit(unsigned flags) {
  (void)flags;
  char parts[MOST][64], path[1024];
  int fails = atoi(setting("FAKE_CUDA_FAILS")), total = split(setting("FAKE_GPUS"), parts);
  if (fails == -1) abort();
  if (fails) return fails;
  if (count >= 0) return count ? 0 : 100;
  snprintf(path, sizeof path, "%s/%d", setting("FAKE_CUDA_STARTED"), getpid());
  FILE *started = fopen(path, "w");
  if (started) fclose(started);
  for (int i = 0; i < total; i++) snprintf(there[i], 64, "%s", parts[i]);
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  int asked = visible ? split(visible, parts) : total;
  for (count = 0; count < asked; count++) {
    int at = visible ? position(parts[count], total) : count;
    if (at < 0) break;
    seen[count] = at;
  }
  return count ? 0 : 100; /* CUDA_ERROR_NO_DEVICE */
}

int cuDeviceGetCount(int *number) { return *number = count, 0; }

int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
  for (int i = 0; i < 16; i++) sscanf(there[seen[device]] + 2 * i, "%2hhx", uuid + i);
  return 0;
}
