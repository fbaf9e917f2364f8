"""Estimated cycles are attributed to the named scopes and source files of operations."""

from focalnet_jax.aot.ledger import cycles_by_part
from focalnet_jax.aot.program import Program

# Tables of source files as in a program of the TPU compiler. Frame 4 is a line of optax, called by frame 2.
TABLES = """
FileNames
1 "/src/focalnet_jax/tasks/detection/rpn.py"
2 "/usr/lib/python3/site-packages/focalnet_jax/ops/roi_align.py"
3 "/usr/lib/python3/site-packages/optax/losses.py"
4 "/src/focalnet_jax/model/heads/rpn.py"

FunctionNames
1 "<module>"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=2 column=3 end_column=4}
2 {file_name_id=2 function_name_id=1 line=1 end_line=2 column=3 end_column=4}
3 {file_name_id=3 function_name_id=1 line=1 end_line=2 column=3 end_column=4}
4 {file_name_id=4 function_name_id=1 line=1 end_line=2 column=3 end_column=4}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=2}
4 {file_location_id=3 parent_frame_id=3}
5 {file_location_id=4 parent_frame_id=2}
"""


def program(*operations):
    lines = [
        f'  %o{index} = f32[4]{{0}} {operation}(%x), metadata={{op_name="{name}" stack_frame_id={frame}}}, '
        f'backend_config={{"estimated_cycles":"{cycles}"}}'
        for index, (operation, name, frame, cycles) in enumerate(operations)
    ]
    return Program(f"{TABLES}\n\nENTRY %main (x: f32[4]) -> f32[4] {{\n" + "\n".join(lines) + "\n}\n")


def test_operations_belong_to_scopes_and_those_of_heads_to_files_too():
    found = cycles_by_part(
        program(
            ("add", "jit(step)/jvp()/while/body/aggregation/conv", 1, 100),
            ("add", "jit(step)/transpose(jvp(bbox_head))/dot_general", 3, 40),
            ("add", "jit(step)/jvp(rpn_head)/normalize/add", 5, 7),
            ("add", "jit(step)/optimizer/norm", 1, 3),
            ("add", "jit(step)/jvp()/mul", 1, 20),
            ("add", "jit(step)/jvp()/mul", 4, 2),
            ("add", "jit(step)/jvp()/mul", 99, 1),
            ("all-reduce", "jit(step)/jvp(neck)/mul", 1, 5),
        ),
        {}.get,
    )
    assert found == {
        "aggregation": 100,
        "bbox_head, ops/roi_align.py": 40,
        "tasks/detection/rpn.py": 22,  # including optax, which it calls
        "rpn_head": 7,
        "collectives": 5,
        "optimizer": 3,
        "other": 1,
    }
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_program_without_estimates_has_no_parts():
    assert (
        cycles_by_part(Program("ENTRY %main (x: f32[4]) -> f32[4] {\n  ROOT %y = f32[4]{0} copy(%x)\n}"), {}.get) == {}
    )
