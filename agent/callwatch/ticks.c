/*
 * ticks.c - may the processor's counter be used, and how fast does it count?
 */
#include "ticks.h"

#include <stdio.h>
#include <string.h>

#define CLOCK_SOURCE "/sys/devices/system/clocksource/clocksource0/current_clocksource"
#define CALIBRATION_NS UINT64_C(500000)
#define TRIES 5

#if defined(__x86_64__)
struct pair {
    uint64_t counter;
    uint64_t ns;
};

/* Both clocks at the same moment: the try that was interrupted least. */
static struct pair
read_both(void)
{
    struct pair best = {0, 0};
    uint64_t narrowest = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t before = __rdtsc();
        uint64_t ns = lg_now_ns();
        uint64_t after = __rdtsc();
        if (after - before < narrowest) {
            narrowest = after - before;
            best = (struct pair){before + (after - before) / 2, ns};
        }
    }
    return best;
}

/* The kernel leaves the TSC when it finds it unsteady; what the hypervisors
 * offer is computed from it. */
static bool
counter_is_steady(void)
{
    static const char *const fit[] = {"tsc", "kvm-clock", "hyperv", "xen"};
    char text[32] = "";
    FILE *file = fopen(CLOCK_SOURCE, "re");
    if (file == NULL) {
        return false;
    }
    bool read = fgets(text, sizeof(text), file) != NULL;
    (void)fclose(file);
    for (size_t i = 0; read && i < sizeof(fit) / sizeof(fit[0]); i++) {
        if (strncmp(text, fit[i], strlen(fit[i])) == 0) {
            return true;
        }
    }
    return false;
}
#endif

void
lg_ticks_init(struct lg_ticks *ticks)
{
    *ticks = (struct lg_ticks){.counter = false, .ns_per_tick = 1.0};
#if defined(__x86_64__)
    if (!counter_is_steady()) {
        return;
    }
    struct pair first = read_both();
    struct pair last;
    do {
        last = read_both();
    } while (last.ns - first.ns < CALIBRATION_NS);
    if (last.counter > first.counter) {
        ticks->ns_per_tick = (double)(last.ns - first.ns) / (double)(last.counter - first.counter);
        ticks->counter = true;
    }
#elif defined(__aarch64__)
    uint64_t per_s;
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(per_s));
    if (per_s > 0) {
        ticks->ns_per_tick = 1e9 / (double)per_s;
        ticks->counter = true;
    }
#endif
}
