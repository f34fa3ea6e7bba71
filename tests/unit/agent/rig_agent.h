/*
 * rig_agent.h - a recorder with a segment in a tmpfs folder of its own.
 */
#ifndef RIG_AGENT_H
#define RIG_AGENT_H

#include "../common/rig.h"

#include "record.h"

#define MS LG_NS_PER_MS

struct rig_recorder {
    struct rig_dir dir;
    struct lg_recorder rec;
};

static inline void
rig_recorder_open(struct rig_recorder *rig, uint32_t endpoints)
{
    struct lg_segment_options options = {.endpoints = endpoints};
    rig_dir_make(&rig->dir);
    options.dir = rig->dir.path;
    assert_int_equal(lg_record_open(&rig->rec, &options), 0);
}

static inline void
rig_recorder_close(struct rig_recorder *rig)
{
    lg_record_close(&rig->rec, false);
    rig_dir_remove(&rig->dir);
}

#endif
