/*
 * pyframes_313.h - where CPython 3.13 keeps frames, code, GIL and collector.
 *
 * The interpreter says most of it itself, in the _Py_DebugOffsets at the start
 * of _PyRuntime: those numbers are of the running build, not of the headers we
 * were compiled with. What the block lacks comes from the headers. Included by
 * pystack.c only.
 */
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>

static bool
offsets_are_usable(const _Py_DebugOffsets *d)
{
    return memcmp(d->cookie, _Py_Debug_Cookie, sizeof(d->cookie)) == 0 &&
           d->version >> 16 == 0x030d && d->free_threaded == 0;
}

static void
fill_layout(struct lg_pylayout *l)
{
    const _Py_DebugOffsets *d = &_PyRuntime.debug_offsets;
    if (!offsets_are_usable(d)) {
        return;
    }
    *l = (struct lg_pylayout){
        .name = "3.13",
        .lines_form = LG_PYLINES_LOCATIONS,
        .ts_bytes = (uint16_t)(d->thread_state.datastack_chunk + sizeof(void *)),
        .ts_interp = (uint16_t)d->thread_state.interp,
        .ts_frame = (uint16_t)d->thread_state.current_frame,
        .cframe_frame = LG_ABSENT,
        .ts_thread_id = (uint16_t)d->thread_state.thread_id,
        .ts_native_id = (uint16_t)d->thread_state.native_thread_id,
        .ts_id = offsetof(PyThreadState, id),
        .ts_chunk = (uint16_t)d->thread_state.datastack_chunk,
        .chunk_data = offsetof(_PyStackChunk, data),
        .fr_bytes = (uint16_t)d->interpreter_frame.localsplus,
        .fr_previous = (uint16_t)d->interpreter_frame.previous,
        .fr_code = (uint16_t)d->interpreter_frame.executable,
        .fr_instr = (uint16_t)d->interpreter_frame.instr_ptr,
        .fr_owner = (uint16_t)d->interpreter_frame.owner,
        .co_bytes = (uint16_t)d->code_object.co_code_adaptive,
        .co_instr = (uint16_t)d->code_object.co_code_adaptive,
        .co_file = (uint16_t)d->code_object.filename,
        .co_name = (uint16_t)d->code_object.qualname,
        .co_lines = (uint16_t)d->code_object.linetable,
        .co_consts = offsetof(PyCodeObject, co_consts),
        .co_first_line = (uint16_t)d->code_object.firstlineno,
        .co_traceable = offsetof(PyCodeObject, _co_firsttraceable),
        .co_version = offsetof(PyCodeObject, co_version),
    };
}

static void
fill_gil(struct lg_pystack *ps, PyInterpreterState *interp)
{
    const _Py_DebugOffsets *d = &_PyRuntime.debug_offsets;
    uint64_t base = (uint64_t)(uintptr_t)interp;
    ps->gil_start = base + d->interpreter_state.gil_runtime_state;
    ps->gil_end = ps->gil_start + sizeof(struct _gil_runtime_state);
    ps->gil_locked = base + d->interpreter_state.gil_runtime_state_locked;
    ps->gil_holder = base + d->interpreter_state.gil_runtime_state_holder;
    ps->gc_collecting = base + d->interpreter_state.gc + d->gc.collecting;
    for (int i = 0; i < 3; i++) {
        ps->gc_thresholds[i] = base + d->interpreter_state.gc +
                               offsetof(struct _gc_runtime_state, generations[i].threshold);
    }
}
