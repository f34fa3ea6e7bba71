/*
 * owner.c - records of who is charged, recycled.
 */
#include "owner.h"

#include <Python.h>

#include <stdlib.h>
#include <string.h>

#include "../common/lg_clock.h"
#include "agent.h"
#include "charge.h"
#include "tell.h"

static void enlist(struct lg_owner *owner);
static void delist(struct lg_owner *owner);
static bool is_counted(const struct lg_owner *owner);

struct lg_owner *
lg_owner_new(struct lg_agent *agent, enum lg_endpoint_kind kind, uint64_t now_ns)
{
    struct lg_owner *owner = agent->free_owners;
    if (owner != NULL) {
        agent->free_owners = owner->next_free;
        memset(owner, 0, sizeof(*owner));
    }
    else {
        owner = calloc(1, sizeof(*owner));
        if (owner == NULL) {
            return NULL;
        }
    }
    owner->agent = agent;
    owner->epoch = agent->epoch;
    owner->refs = 1;
    owner->endpoint = -1;
    owner->kind = (uint8_t)kind;
    owner->start_ns = now_ns;
    if (is_counted(owner)) {
        enlist(owner);
    }
    return owner;
}

static void
enlist(struct lg_owner *owner)
{
    struct lg_owner **head = &owner->agent->open_owners;
    owner->open_next = *head;
    owner->open_at = head;
    if (*head != NULL) {
        (*head)->open_at = &owner->open_next;
    }
    *head = owner;
}

static void
delist(struct lg_owner *owner)
{
    if (owner->open_at != NULL) {
        *owner->open_at = owner->open_next;
        if (owner->open_next != NULL) {
            owner->open_next->open_at = owner->open_at;
        }
        owner->open_at = NULL;
    }
}

void
lg_owner_unref(struct lg_owner *owner)
{
    if (--owner->refs > 0) {
        return;
    }
    if (is_counted(owner) && !owner->finished && owner->loop != NULL) {
        /* Its coroutine was thrown away: cancelled, as far as anyone can tell. */
        owner->flags |= LG_REQ_CANCELLED;
        lg_owner_finish(owner, lg_now_ns());
    }
    delist(owner);
    Py_CLEAR(owner->rules);
    lg_tell_drop(&owner->untold);
    free(owner->cumulative);            /* only of one that never came to its end */
    owner->cumulative = NULL;
    owner->next_free = owner->agent->free_owners;
    owner->agent->free_owners = owner;
}

bool
lg_owner_is_current(const struct lg_owner *owner)
{
    return owner->epoch == owner->agent->epoch && owner->agent->state == LG_AGENT_AWAKE;
}

void
lg_owner_name(struct lg_owner *owner, uint32_t endpoint, uint64_t now_ns)
{
    (void)now_ns;
    if (owner->endpoint >= 0 || !lg_owner_is_current(owner)) {
        return;
    }
    owner->endpoint = (int32_t)endpoint;
    if (is_counted(owner) && !owner->finished) {
        lg_record_in_flight(&owner->agent->rec, endpoint, +1);
        owner->counted = true;
    }
    lg_charge_named(owner);
}

void
lg_owner_finish(struct lg_owner *owner, uint64_t now_ns)
{
    if (owner->finished || !lg_owner_is_current(owner)) {
        return;
    }
    owner->finished = true;
    delist(owner);
    lg_charge_finished(owner, now_ns);
    if (owner->untold != NULL) {
        lg_tell_named(owner);           /* the names were in use to the end */
    }
    if (!is_counted(owner)) {
        return;
    }
    uint32_t endpoint = owner->endpoint < 0 ? LG_ENDPOINT_OTHER : (uint32_t)owner->endpoint;
    if (owner->counted) {
        lg_record_in_flight(&owner->agent->rec, endpoint, -1);
        owner->counted = false;
    }
    if (owner->status == 0 && owner->kind == LG_KIND_REQUEST) {
        owner->flags |= LG_REQ_NO_RESPONSE;
    }
    struct lg_request_facts facts = {
        .start_ns = owner->start_ns,
        .end_ns = owner->response_sent ? owner->response_ns : now_ns,
        .on_loop_ns = owner->on_loop_ns,
        .longest_step_ns = owner->longest_step_ns,
        .pool_wait_ns = owner->pool_wait_ns,
        .request_id = owner->id,
        .status = owner->status,
        .method = owner->method,
        .flags = owner->flags,
        .timed = owner->kind == LG_KIND_REQUEST,
    };
    lg_record_request(&owner->agent->rec, endpoint, &facts);
}

void
lg_owner_trim(struct lg_agent *agent)
{
    while (agent->free_owners != NULL) {
        struct lg_owner *owner = agent->free_owners;
        agent->free_owners = owner->next_free;
        free(owner);
    }
}

static bool
is_counted(const struct lg_owner *owner)
{
    return owner->kind == LG_KIND_REQUEST || owner->kind == LG_KIND_WEBSOCKET;
}
