/*
 * settings.h - what the user may set, as the agent keeps it; checked already
 * by config.py. Needs no Python.h, so that plain rooms can use it.
 */
#ifndef LG_AGENT_SETTINGS_H
#define LG_AGENT_SETTINGS_H

#include <stdint.h>

#include "../common/lg_layout.h"

struct lg_agent;
struct _object;                         /* PyObject */

struct lg_settings {
    struct lg_config_info config;
    uint64_t monitor_interval_ns;
    uint64_t adaptive_update_interval_ns;
    double threshold_multiplier;
    double adaptive_percentile;
    uint32_t calibration_iterations;
    uint32_t adaptive_window_size;
    uint32_t adaptive_min_samples;
    char segment_dir[192];              /* "" = shm_open */
    char app[128];
    char server[64];
    char version[32];
};

/* Fills agent->settings and endpoint_thresholds. 0, or -1 with KeyError or
 * TypeError naming the key; the agent is then unchanged. GIL. */
int lg_settings_read(struct lg_agent *agent, struct _object *dict);

#endif
