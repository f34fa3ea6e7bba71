/*
 * lg_page.h - the immutable header page, and the plan of what lies behind it.
 *
 * For lg_segment.c and lg_off.c: the writer's side inside this folder. A page
 * is filled in memory that the caller owns (LG_HEADER_PAGE bytes, all zero)
 * and exists for readers only after lg_page_publish().
 */
#ifndef LG_PAGE_H
#define LG_PAGE_H

#include "lg_layout.h"

struct lg_plan {
    struct lg_section section[LG_MAX_SECTIONS];  /* in the order of the file */
    uint32_t count;
    uint64_t size_bytes;
};

/* All sections, for `endpoints` endpoints. */
void lg_plan_segment(struct lg_plan *plan, uint32_t endpoints);

/* PROC and CONFIG alone: one page. */
void lg_plan_note(struct lg_plan *plan);

/* Fills what is 0 in `proc` from /proc and the clocks. 0 or -errno: without
 * pid and start time there is no name for a segment; other facts that cannot
 * be had stay 0. */
int lg_page_describe(struct lg_proc_info *proc);

/* Everything but the magic; draws a new nonce. */
void lg_page_fill(void *page, const struct lg_plan *plan, const struct lg_proc_info *proc,
                  const struct lg_config_info *config, enum lg_segment_state state);

/* Stores the magic, release: from here on readers may look. */
void lg_page_publish(void *page);

#endif
