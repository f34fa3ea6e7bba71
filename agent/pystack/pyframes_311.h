/*
 * pyframes_311.h - where CPython 3.11 keeps frames, code, GIL and collector.
 *
 * Frames lie one after another on a per-thread data stack; those of generators
 * and coroutines lie inside their objects. Included by pystack.c only.
 */
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>

static void
fill_layout(struct lg_pylayout *l)
{
    *l = (struct lg_pylayout){
        .name = "3.11",
        .lines_form = LG_PYLINES_LOCATIONS,
        .ts_bytes = offsetof(PyThreadState, datastack_chunk) + sizeof(void *),
        .ts_interp = offsetof(PyThreadState, interp),
        .ts_frame = offsetof(PyThreadState, cframe),
        .cframe_frame = offsetof(_PyCFrame, current_frame),
        .ts_thread_id = offsetof(PyThreadState, thread_id),
        .ts_native_id = offsetof(PyThreadState, native_thread_id),
        .ts_id = offsetof(PyThreadState, id),
        .ts_chunk = offsetof(PyThreadState, datastack_chunk),
        .chunk_data = offsetof(_PyStackChunk, data),
        .fr_bytes = offsetof(_PyInterpreterFrame, localsplus),
        .fr_previous = offsetof(_PyInterpreterFrame, previous),
        .fr_code = offsetof(_PyInterpreterFrame, f_code),
        .fr_instr = offsetof(_PyInterpreterFrame, prev_instr),
        .fr_owner = offsetof(_PyInterpreterFrame, owner),
        .co_bytes = offsetof(PyCodeObject, co_code_adaptive),
        .co_instr = offsetof(PyCodeObject, co_code_adaptive),
        .co_file = offsetof(PyCodeObject, co_filename),
        .co_name = offsetof(PyCodeObject, co_qualname),
        .co_lines = offsetof(PyCodeObject, co_linetable),
        .co_consts = offsetof(PyCodeObject, co_consts),
        .co_first_line = offsetof(PyCodeObject, co_firstlineno),
        .co_traceable = offsetof(PyCodeObject, _co_firsttraceable),
        .co_version = LG_ABSENT,
    };
}

static void
fill_gil(struct lg_pystack *ps, PyInterpreterState *interp)
{
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
    ps->gil_start = (uint64_t)(uintptr_t)gil;
    ps->gil_end = (uint64_t)(uintptr_t)(gil + 1);
    ps->gil_locked = (uint64_t)(uintptr_t)&gil->locked;
    /* NULL as soon as the GIL is let go, unlike gil->last_holder. */
    ps->gil_holder = (uint64_t)(uintptr_t)&_PyRuntime.gilstate.tstate_current;
    ps->gc_collecting = (uint64_t)(uintptr_t)&interp->gc.collecting;
    for (int i = 0; i < 3; i++) {
        ps->gc_thresholds[i] = (uint64_t)(uintptr_t)&interp->gc.generations[i].threshold;
    }
}
